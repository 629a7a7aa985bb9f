"""Dead letters: what is refused, and what cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from conveyor.core import InvalidOptionError, NewJob, Queue, Worker
from conveyor.core._jobs.dead_letters import dead_letter, dead_letters_of, original
from conveyor.core._jobs.report import Failure, Report
from conveyor.core.job_options import JobOptions
from conveyor.core.store import JobRecord
from conveyor.core.testing import FaultyStore, make_job


@pytest.mark.parametrize("name", ["q", "", "conveyor:workers:q", 7, "a\nb"], ids=ascii)
async def test_a_queue_that_cannot_take_dead_letters_is_refused(
    queue: Queue[Any], store: FaultyStore, name: Any
) -> None:
    store.calls.clear()
    with pytest.raises(InvalidOptionError, match="dead_letter"):
        await queue.add("work", dead_letter=name)
    with pytest.raises(InvalidOptionError, match="dead_letter"):
        await queue.add_bulk([NewJob("work"), NewJob("work", dead_letter=name)])
    with pytest.raises(InvalidOptionError, match="dead_letter"):
        Queue("q", store, dead_letter=name)
    with pytest.raises(InvalidOptionError, match="dead_letter"):
        Queue("q", store, default_job_options={"dead_letter": name})

    assert store.calls == []


@pytest.mark.parametrize(
    "options",
    [{"limit": 0}, {"limit": 1.5}, {"ids": [""]}, {"ids": "letter"}, {"ids": [7]}, {"limit": True}],
    ids=repr,
)
async def test_bad_choices_of_dead_letters_are_refused_before_the_store_is_asked(
    queue: Queue[Any], store: FaultyStore, options: Any
) -> None:
    store.calls.clear()

    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        await queue.redrive(**options)

    assert store.calls == []


async def test_default_options_go_before_the_queues_dead_letter_queue(store: FaultyStore) -> None:
    plain = Queue[Any]("q", store, dead_letter="dead")
    other = Queue[Any]("q", store, dead_letter="dead", default_job_options={"dead_letter": "other"})
    none = Queue[Any]("q", store, dead_letter="dead", default_job_options={"dead_letter": None})

    assert (await plain.add("work")).options.dead_letter == "dead"
    assert (await plain.add("work", attempts=2)).options.dead_letter == "dead"
    assert (await other.add("work")).options.dead_letter == "other"
    assert (await none.add("work")).options.dead_letter is None


async def test_a_dead_letter_is_the_same_for_the_same_lease_and_another_for_another(
    store: FaultyStore,
) -> None:
    record = replace(await make_job(store), token="t")
    options = JobOptions(dead_letter="dead")
    report = Report(error=Failure(type="E", message="m"))

    [one], [same] = dead_letters_of(record, report, options), dead_letters_of(record, report, options)
    [other] = dead_letters_of(replace(record, token="u"), report, options)

    assert one == same
    assert one.id != other.id
    assert dead_letters_of(record, report, JobOptions()) == ()
    assert dead_letters_of(record, report, JobOptions(dead_letter=record.queue)) == ()


@pytest.mark.parametrize(
    "report", ["{", "[]", "{}", '{"dead_letter_of":7}', '{"dead_letter_of":{"queue":"q"}}'], ids=ascii
)
def test_what_is_no_dead_letter_or_cannot_be_read_is_none(report: str) -> None:
    record = JobRecord(queue="dead", id="a", name="work", report=report)

    assert original(record) is None
    assert dead_letter(record) is None


async def test_a_job_whose_report_cannot_be_read_leaves_a_dead_letter_all_the_same(
    store: FaultyStore, worker: Callable[..., Worker[Any]]
) -> None:
    await make_job(store, report="[]", options='{"dead_letter":"dead"}')

    await worker(print).run_until_idle()

    [letter] = await Queue[Any]("dead", store).get_jobs()
    assert letter.dead_letter_of is not None
    assert letter.dead_letter_of.error_type == "undecodable"
    assert letter.to_dict()["dead_letter_of"] == letter.dead_letter_of


async def test_a_dead_letter_that_cannot_be_run_is_still_a_dead_letter(
    queue: Queue[Any], store: FaultyStore, clock: Any, worker: Callable[..., Worker[Any]]
) -> None:
    async def fail(_: Any) -> None:
        raise RuntimeError

    await queue.add("work", "text", dead_letter="dead")
    await worker(fail).run_until_idle()
    await Worker[Any]("dead", fail, store, clock=clock, payload=dict).run_until_idle()

    [letter] = await Queue[Any]("dead", store).get_jobs("failed")
    assert letter.dead_letter_of is not None
