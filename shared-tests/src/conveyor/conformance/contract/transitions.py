"""What each step makes of a job is what `conveyor.core.store.transitions` says.

A store may write the same rules in another way, by one statement for many jobs for instance. So whole tables
of jobs, outcomes and changes are played, many in a call, and each job is compared with what the rules make of
the record that was there before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    AT_ONCE,
    DONE,
    LEASE,
    at,
    child,
    completed,
    everything,
    job,
    new_token,
    normal,
    span,
    take_by_id,
)
from conveyor.core.store import (
    TERMINAL,
    Change,
    Feature,
    JobRecord,
    JobState,
    Outcome,
    Release,
    Retention,
    Store,
    Where,
    initial_state,
    new_row,
    transitions,
)

#: What a new job may say of when it runs, and of what else its first state and its sort key follow from.
TIMES: Final[Mapping[str, dict[str, Any]]] = {
    "at once": {},
    "later": {"delay": span(600)},
    "with no delay": {"delay": timedelta(0)},
    "at a time": {"run_at": at(15)},
    "at a time that has come": {"run_at": at(0)},
    "later, whatever its time": {"delay": span(30), "run_at": at(900)},
    "with no delay, whatever its time": {"delay": timedelta(0), "run_at": at(900)},
}
SORTS: Final[Mapping[str, dict[str, Any]]] = {
    "plain": {},
    "urgent": {"priority": -3, "lifo": True},
    "ageing": {"priority": 7, "ageing": span(3)},
}
#: Jobs of every kind that a rule tells from another, and the feature that they need.
KINDS: Final[Mapping[str, tuple[dict[str, Any], Feature | None]]] = {
    "plain": ({}, None),
    "delayed": ({"delay": span(600)}, None),
    "to run at": ({"run_at": at(15)}, None),
    "that stalled": ({"priority": 3}, None),
    "to be cancelled": ({"lifo": True}, None),
    "of a key": ({"unique_key": "key"}, Feature.UNIQUE_KEYS),
    "of a key for a while": ({"unique_key": "long", "unique_for": span(3_000)}, Feature.UNIQUE_KEYS),
    "of a key that lapsed": ({"unique_key": "short", "unique_for": span(15)}, Feature.UNIQUE_KEYS),
    "of a group": ({"group": "g"}, Feature.GROUPS),
}
OUTCOMES: Final[Mapping[str, Callable[[JobRecord], Outcome]]] = {
    "completed": completed,
    "completed and removed": lambda held: completed(held, retention=AT_ONCE),
    "completed and kept": lambda held: completed(held, retention=Retention(age=span(60), count=3)),
    "failed": lambda held: Outcome.failed(held, DONE, retention=Retention(count=0)),
    "cancelled": lambda held: Outcome.cancelled(held, DONE),
    "retried at once": lambda held: Outcome.retry(held, DONE, delay=timedelta(0)),
    "retried later": lambda held: Outcome.retry(held, DONE, delay=span(5)),
    "snoozed": lambda held: Outcome.snoozed(held, DONE, delay=span(7)),
    "snoozed until": lambda held: Outcome.snoozed(held, DONE, run_at=at(900)),
    "snoozed until now": lambda held: Outcome.snoozed(held, DONE, run_at=at(20)),
    "snoozed to where it was": lambda held: Outcome.snoozed(held, DONE),
    "given back": Outcome.given_back,
    "stalled": lambda held: Outcome.stalled(held, DONE),
}
CHANGES: Final[Mapping[str, Change]] = {
    "payload": Change(payload="7"),
    "priority": Change(priority=-4),
    "delay": Change(delay=span(5)),
    "no delay": Change(delay=timedelta(0)),
    "run at": Change(run_at=at(800)),
    "cancel": Change(cancel=True),
    "retry": Change(retry=True),
    "retry later": Change(retry=True, delay=span(9), payload="8"),
    "release key": Change(release_key=True),
    "retention": Change(retention=Retention(age=span(2), count=9)),
    "report": Change(report=DONE),
    "all": Change(payload="7", priority=1, run_at=at(50), cancel=True, retention=AT_ONCE, report="{}"),
}
#: The states that a change may meet, and the outcome that leads there; None: it is not settled.
STATES: Final[Mapping[JobState, str | None]] = {
    JobState.WAITING: None,
    JobState.DELAYED: None,
    JobState.ACTIVE: None,
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


def table(store: Store, columns: Iterable[str]) -> dict[str, JobRecord]:
    """A job of each kind that the store offers for each of these, by ids that say which."""
    found: dict[str, JobRecord] = {}
    for kind, (fields, feature) in KINDS.items():
        for column in columns if feature is None or feature in store.features else ():
            own = {"unique_key": f"{fields['unique_key']} {column}"} if "unique_key" in fields else {}
            found[f"{kind}: {column}"] = job(f"{kind}: {column}", **(fields | own))
    return found


def of_kind(ids: Iterable[str], kind: str) -> frozenset[str]:
    """Those of these jobs that are of this kind."""
    return frozenset(id for id in ids if id.startswith(f"{kind}: "))


async def by_id(store: Store, second: float) -> dict[str, JobRecord]:
    """Every job of the queue as it is at that moment."""
    return {record.id: normal(record) for record in await everything(store, now=at(second))}


async def hold(store: Store, ids: Iterable[str]) -> dict[str, JobRecord]:
    """Take these jobs after ten seconds; those of the kinds that say so stall before, or are cancelled."""
    ids = frozenset(ids)
    if stalled := of_kind(ids, "that stalled"):
        await take_by_id(store, stalled, lease=span(1))
        await store.advance({"q"}, now=at(2))
    await take_by_id(store, ids, now=at(10), lease=LEASE)
    if cancelled := of_kind(ids, "to be cancelled"):
        await store.update(Where(queue="q", ids=cancelled), Change(cancel=True), now=at(11))
    return {id: record for id, record in (await by_id(store, 12)).items() if id in ids}


def after(record: JobRecord, fields: transitions.Fields, second: float) -> JobRecord:
    """The record with these fields, as it is read at that moment."""
    made = replace(record, **fields)
    return normal(replace(made, holds_key=transitions.holds_key(made, at(second))))


@area("transitions")
class Transitions:
    """Each step makes of a job what the rules of its life say."""

    async def test_an_insert_makes_of_a_job_what_the_rules_say(self, store: Store) -> None:
        sorts = dict(SORTS)
        if Feature.UNIQUE_KEYS in store.features:
            sorts["of a key for a while"] = {"unique_for": span(20)}
        new = [
            job(f"{sort}, {time}", **fields, **when, unique_key=time if "unique_for" in fields else None)
            for sort, fields in sorts.items()
            for time, when in TIMES.items()
        ]
        families = [
            each
            for one in new
            if one.unique_key is None and Feature.FLOWS in store.features
            for each in (
                child(f"child, {one.id}", of=f"parent, {one.id}"),
                replace(one, id=f"parent, {one.id}"),
            )
        ]

        await store.insert(new, now=at(0))
        await store.insert(families, now=at(0))

        found = await by_id(store, 0)
        for one in [*new, *families]:
            state = initial_state(one, at(0), children=sum(other.parent == one.key for other in families))
            row = JobRecord(**new_row(one, state, at(0)), seq=found[one.id].seq)
            assert found[one.id] == after(row, {}, 0), f"a job {one.id}"

    async def test_a_job_whose_time_has_come_is_what_the_rules_say(self, store: Store) -> None:
        jobs = table(store, ["due"])
        await store.insert([*jobs.values()], now=at(0))
        before = await by_id(store, 19)

        advanced = await store.advance({"q"}, now=at(20))

        due = {id for id, one in before.items() if one.run_at is not None and one.run_at <= at(20)}
        assert due == {key.id for key in advanced.due} != set()
        found = await by_id(store, 20)
        for id, one in before.items():
            fields: transitions.Fields = transitions.waiting(at(20)) if id in due else {}
            assert found[id] == after(one, fields, 20), f"a job {id}"

    async def test_a_claim_makes_of_a_job_what_the_rules_say(self, store: Store) -> None:
        jobs = table(store, ["claimed"])
        await store.insert([*jobs.values()], now=at(0))
        before = await by_id(store, 1)

        await store.take("q", jobs, token="t", lease=LEASE, worker="w", started=True, now=at(10))

        given: dict[str, Any] = {"token": "t", "lease": LEASE, "worker": "w", "started": True, "now": at(10)}
        expected = {id: after(one, transitions.leased(one, **given), 10) for id, one in before.items()}
        assert await by_id(store, 10) == expected

    @pytest.mark.parametrize("how", ["kind by kind", "one by one", "all together"])
    async def test_an_outcome_makes_of_a_job_what_the_rules_say(self, store: Store, how: str) -> None:
        outcomes = OUTCOMES
        if how == "one by one":  # enough to tell whether one is a batch of one
            outcomes = {name: OUTCOMES[name] for name in ("completed and kept", "snoozed", "given back")}
        jobs = table(store, outcomes)
        await store.insert([*jobs.values()], now=at(0))
        held = await hold(store, jobs)
        made = {id: outcomes[id.partition(": ")[2]](one) for id, one in held.items()}
        batches = {
            "kind by kind": [of_kind(jobs, kind) for kind in KINDS],
            "one by one": [frozenset([id]) for id in jobs],
            "all together": [frozenset(jobs)],
        }

        for batch in batches[how]:
            settled = await store.settle([made[id] for id in sorted(batch)], now=at(20))
            assert settled.applied == {made[id].lease for id in batch}

        expected = {
            id: after(one, transitions.settled(one, made[id], at(20)), 20) for id, one in held.items()
        }
        gone = {id for id, one in expected.items() if transitions.due_for_removal(one, at(20))}
        found = await by_id(store, 20)
        for id, one in expected.items():
            assert found.get(id) == (None if id in gone else one), f"a job {id}"

    async def test_a_lease_that_ran_out_makes_of_a_job_what_the_rules_say(self, store: Store) -> None:
        jobs = table(store, ["started", "not started"])
        await store.insert([*jobs.values()], now=at(0))
        await hold(store, [id for id in jobs if id.endswith(": started")])
        rest = [id for id in jobs if id.endswith(": not started")]
        await store.take("q", rest, token=new_token(), lease=LEASE, started=False, now=at(10))
        before = await by_id(store, 39)

        await store.advance({"q"}, now=at(40))

        found = await by_id(store, 40)
        for id, one in before.items():
            assert found[id] == after(one, transitions.lapsed(one, at(40)), 40), f"a job {id}"

    async def test_a_change_makes_of_a_job_what_the_rules_say(self, store: Store) -> None:
        columns = [f"{state.value}: {name}" for state in STATES for name in CHANGES]
        jobs = table(store, columns)
        state_of = {id: JobState(id.split(": ")[1]) for id in jobs}
        jobs = {
            id: one
            if state_of[id] is not JobState.DELAYED or one.delay or one.run_at
            else replace(one, delay=span(700))
            for id, one in jobs.items()
        }
        await store.insert([*jobs.values()], now=at(0))
        moved = [id for id, state in state_of.items() if state not in {JobState.WAITING, JobState.DELAYED}]
        held = await hold(store, moved)
        ends = [OUTCOMES[end](one) for id, one in held.items() if (end := STATES[state_of[id]]) is not None]
        await store.settle(ends, now=at(20))
        before = await by_id(store, 21)

        for name, change in CHANGES.items():
            ids = frozenset(id for id in jobs if id.endswith(f": {name}"))
            applied = await store.update(Where(queue="q", ids=ids), change, now=at(21))
            found = await by_id(store, 21)
            for id in ids:
                one, changed = before[id], False
                if change.retry and one.state in TERMINAL:
                    one, changed = after(one, transitions.retried(one, at(21)), 21), True
                fields = transitions.changed(one, change, at(21))
                assert found[id] == after(one, fields, 21), f"a job {id}"
                assert (one.key in applied) == (changed or bool(fields)), f"a job {id}"

    @needs(Feature.FLOWS)
    async def test_a_child_that_ends_makes_of_its_parent_what_the_rules_say(self, store: Store) -> None:
        waits: dict[str, dict[str, Any]] = {
            "plain": {},
            "delayed": {"delay": span(60)},
            "to run at": {"run_at": at(900)},
            "to have run at": {"run_at": at(15)},
        }
        parents = {
            f"{wait}, {place}, {how.value} of {children}": (fields, place, how, children)
            for wait, fields in waits.items()
            for place in ("waiting", "held")
            for how in Release
            for children in (1, 2)
        }
        for id, (fields, _, _, children) in parents.items():
            kids = [child(f"{id}, {n}", of=id, queue="kids") for n in range(children)]
            await store.insert([*kids, job(id, **fields)], now=at(0))
        firsts = await take_by_id(store, [f"{id}, 0" for id in parents], queue="kids", now=at(10))
        await take_by_id(
            store, [id for id, (_, place, _, _) in parents.items() if place == "held"], now=at(10)
        )
        before = await by_id(store, 12)
        release = {f"{id}, 0": how for id, (_, _, how, _) in parents.items()}

        outcomes = [Outcome.failed(kid, DONE, release=release[kid.id]) for kid in firsts]
        settled = await store.settle(outcomes, now=at(20))

        found = await by_id(store, 20)
        freed = set()
        for id, (_, _, how, _) in parents.items():
            fields_now = transitions.released(before[id], how, at(20))
            freed |= {before[id].key} if "state" in fields_now else set()
            assert found[id] == after(before[id], fields_now, 20), f"a parent that is {id}"
        assert set(settled.released) == freed
