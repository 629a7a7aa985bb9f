"""The words of each reason, what cannot be read, and what workers of other releases say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conveyor.core import InvalidOptionError, JobState, Queue, explanation
from conveyor.core._inspect.worker_registry import find_workers
from conveyor.core._queue_names import workers_of
from conveyor.core.store import JobKey
from conveyor.core.testing import FaultyStore, make_job

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SHOWN = "2026-01-01T12:00:00.000+00:00"
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (explanation.Finished(state=JobState.COMPLETED, at=NOON, why=None), f"it is completed since {SHOWN}"),
        (
            explanation.Finished(state=JobState.FAILED, at=None, why="no"),
            "it is failed since an unknown time: no",
        ),
        (
            explanation.InDeadLetters(queue_name="d"),
            "a dead letter of it was added to the dead-letter queue 'd'",
        ),
        (
            explanation.IsDeadLetter(queue_name="q", job_id="a"),
            "it is the dead letter of job 'a' of queue 'q'",
        ),
        (
            explanation.Running(worker="w", since=NOON, lease_until=NOON),
            f"worker 'w' holds it since {SHOWN}, and must give a sign of life by {SHOWN}",
        ),
        (
            explanation.Running(worker=None, since=NOON, lease_until=NOON),
            f"it is held for a moment, by no worker, since {SHOWN}, and must give a sign of life by {SHOWN}",
        ),
        (explanation.CancellationPending(), "its cancellation was asked for"),
        (explanation.Delayed(until=NOON), f"it is delayed until {SHOWN}"),
        (
            explanation.WaitsForChildren(pending=1, children=((JobKey("k", "a"), JobState.ACTIVE),)),
            "it waits for 1 children: 'a' of 'k' (active)",
        ),
        (explanation.Paused(job_name=None, group=None, until=None), "its queue is paused until resumed"),
        (
            explanation.Paused(job_name="x", group=None, until=NOON),
            f"jobs named 'x' are paused until {SHOWN}",
        ),
        (explanation.Paused(job_name=None, group="g", until=None), "its group 'g' is paused until resumed"),
        (explanation.WorkersPaused(workers=("a", "b")), "every worker that takes it is paused: a, b"),
        (
            explanation.WorkersBusy(active=3, room=2),
            "the workers that take it have room for 2 jobs at once, and hold 3",
        ),
        (
            explanation.AtLimit(group=None, active=2, limit=2),
            "its queue is at its limit: 2 jobs are active, and 2 may be",
        ),
        (
            explanation.AtLimit(group="g", active=2, limit=2),
            "its group 'g' is at its limit: 2 jobs are active, and 2 may be",
        ),
        (
            explanation.RateExceeded(group="g", starts=9, max=9, per=MINUTE, until=NOON),
            (
                "its group 'g' is at its rate limit: 9 jobs have started within 60 s, 9 may; "
                f"the next may start at {SHOWN}"
            ),
        ),
        (
            explanation.WithinRate(group=None, starts=0, max=9, per=MINUTE),
            "its queue may start 9 jobs within 60 s; at least 0 have started",
        ),
        (explanation.InLine(ahead=3, exact=True), "3 waiting jobs are ahead of it"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, explanation.Reason) else "",
)
def test_every_reason_is_a_sentence(reason: explanation.Reason, text: str) -> None:
    assert str(reason) == text


async def test_a_name_that_is_no_id_is_refused_before_the_store_is_asked(
    queue: Queue[Any], store: FaultyStore
) -> None:
    store.calls.clear()

    with pytest.raises(InvalidOptionError, match="job_id"):
        await queue.explain("")

    assert store.calls == []


async def test_a_job_whose_documents_cannot_be_read_is_explained(
    queue: Queue[Any], store: FaultyStore
) -> None:
    record = await make_job(store, options="[]", report="[]")
    assert str(await queue.explain(record.id))
    assert await queue.cancel(record.id)

    [reason] = (await queue.explain(record.id)).reasons

    assert isinstance(reason, explanation.Finished)


@pytest.mark.parametrize("payload", ['"{"', "[]", "null", '{"id": "w"}'], ids=ascii)
async def test_a_registration_that_cannot_be_read_is_left_out(store: FaultyStore, payload: str) -> None:
    record = await make_job(store, queue=workers_of("q"), payload=payload)
    lease = timedelta(seconds=30)
    await store.take(workers_of("q"), [record.id], token="t", lease=lease, worker="w")

    assert await find_workers(store, "q") == []
