"""Jobs, claims and outcomes to test with: builders around one fixed instant.

Tests turn the clock by hand: `at(5)` is five seconds after the instant at which they begin.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from conveyor.core.store import (
    Claim,
    Claimed,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Outcome,
    Retention,
    Settled,
    Store,
    Where,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

START: Final = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LEASE: Final = timedelta(seconds=30)
TICK: Final = timedelta(microseconds=1)
DONE: Final = '{"result":"done"}'
WRONG: Final = '{"error":"wrong"}'
#: As many as any test has.
MANY: Final = 100_000


def at(seconds: float = 0) -> datetime:
    """The instant that many seconds after the tests begin."""
    return START + timedelta(seconds=seconds)


def span(seconds: float) -> timedelta:
    """A duration in seconds."""
    return timedelta(seconds=seconds)


def job(id: str = "a", *, queue: str = "q", name: str = "work", **fields: Any) -> JobRecord:
    """A job to insert."""
    return JobRecord(queue=queue, id=id, name=name, **fields)


def jobs(names: Iterable[str], **fields: Any) -> list[JobRecord]:
    """Jobs with these ids."""
    return [job(one, **fields) for one in names]


def child(id: str, *, of: str = "parent", queue: str = "q", **fields: Any) -> JobRecord:
    """A child to insert, of a parent in queue "q"."""
    return job(id, queue=queue, parent=JobKey("q", of), **fields)


def new_token() -> str:
    """A token for one claim."""
    return uuid4().hex


def claim(count: int = 1, *, queue: str = "q", token: str | None = None, **fields: Any) -> Claim:
    """A request for jobs, with a fresh token and a lease of 30 seconds."""
    values: dict[str, Any] = {"lease": LEASE, "worker": "worker", **fields}
    return Claim(queue=queue, count=count, token=new_token() if token is None else token, **values)


def completed(record: JobRecord, **fields: Any) -> Outcome:
    """The outcome of a handler that returned."""
    return Outcome.completed(record, DONE, **fields)


def failed(record: JobRecord, **fields: Any) -> Outcome:
    """The outcome of a job that is given up."""
    return Outcome.failed(record, WRONG, **fields)


def cancelled(record: JobRecord, **fields: Any) -> Outcome:
    """The outcome of a job that was cancelled."""
    return Outcome.cancelled(record, WRONG, **fields)


def retried(record: JobRecord, delay: float = 0) -> Outcome:
    """The outcome of a run that failed, with another one to come."""
    return Outcome.retry(record, WRONG, delay=span(delay))


#: The three ways in which a job ends by settling.
ENDINGS: Final = {"completed": completed, "failed": failed, "cancelled": cancelled}
#: Removes a job in the step that ends it.
AT_ONCE: Final = Retention(age=timedelta(0))


def ids(found: Claimed | Iterable[JobRecord | JobKey | Inserted]) -> list[str]:
    """The ids of what a call returned, in its order."""
    items: Iterable[JobRecord | JobKey | Inserted] = found.jobs if isinstance(found, Claimed) else found
    return [item.key.id if isinstance(item, Inserted) else item.id for item in items]


async def add(store: Store, *jobs: JobRecord, now: datetime = START) -> Sequence[Inserted]:
    """Insert jobs."""
    return await store.insert(jobs, now=now)


async def claim_jobs(
    store: Store, count: int = 1, *, now: datetime = START, **fields: Any
) -> list[JobRecord]:
    """Claim up to `count` jobs."""
    return list((await store.claim(claim(count, **fields), now=now)).jobs)


async def take_by_id(
    store: Store, wanted: Collection[str], *, queue: str = "q", now: datetime | None = START, **fields: Any
) -> list[JobRecord]:
    """Take these jobs by their ids, with a fresh token and a lease of 30 seconds."""
    values: dict[str, Any] = {"token": new_token(), "lease": LEASE, "worker": "worker", **fields}
    return list((await store.take(queue, wanted, now=now, **values)).jobs)


async def take_one(
    store: Store, id: str, *, queue: str = "q", now: datetime = START, **fields: Any
) -> JobRecord:
    """Take this job by its id."""
    taken = await take_by_id(store, [id], queue=queue, now=now, **fields)
    assert ids(taken) == [id], f"a job that waits is taken by its id, whatever is paused: {id!r} of {queue!r}"
    return taken[0]


async def settle(store: Store, *outcomes: Outcome, now: datetime = START) -> Settled:
    """Settle outcomes, all of which must be applied."""
    settled = await store.settle(outcomes, now=now)
    stale = [f"{one.lease.queue}/{one.lease.id}" for one in outcomes if one.lease not in settled.applied]
    assert not stale, f"outcomes whose leases are held are applied; these were left out: {stale}"
    assert settled.applied == {one.lease for one in outcomes}, "only what was given is said to be applied"
    return settled


async def look(store: Store, id: str, *, queue: str = "q", now: datetime = START) -> JobRecord | None:
    """The job as stored, or None."""
    found = await store.find(Where(queue=queue, ids=frozenset({id})), limit=2, now=now)
    assert len(found) <= 1, (
        f"an id is one job's in its queue; {id!r} of {queue!r} was found {len(found)} times"
    )
    return found[0] if found else None


async def get(store: Store, id: str, *, queue: str = "q", now: datetime = START) -> JobRecord:
    """The job as stored, which must exist."""
    found = await look(store, id, queue=queue, now=now)
    assert found is not None, f"there is no job {id!r} in queue {queue!r}"
    return found


def normal(record: JobRecord) -> JobRecord:
    """The record with its documents written in one way: stores give back equal JSON, not equal text."""

    def written(document: str) -> str:
        return json.dumps(json.loads(document))

    return replace(
        record,
        payload=written(record.payload),
        options=written(record.options),
        report=written(record.report),
    )


async def everything(store: Store, queue: str = "q", *, now: datetime = START) -> list[JobRecord]:
    """Every job of a queue as stored, in the order in which they were added."""
    return list(await store.find(Where(queue=queue), limit=MANY, now=now))


async def states(store: Store, queue: str = "q", *, now: datetime = START) -> dict[str, JobState]:
    """The state of every job of a queue."""
    return {record.id: record.state for record in await everything(store, queue, now=now)}


async def in_state(store: Store, state: JobState, record: JobRecord, *, now: datetime = START) -> JobRecord:
    """Insert a job and bring it into a state by legal steps; return it as it is stored then.

    A delayed one is due a minute later. One that waits for children has the child `f"{id}-child"`.
    """
    match state:
        case JobState.WAITING | JobState.ACTIVE:
            await store.insert([record], now=now)
        case JobState.DELAYED:
            await store.insert([replace(record, delay=span(60))], now=now)
        case JobState.WAITING_CHILDREN:
            kid = job(f"{record.id}-child", queue=record.queue, parent=record.key)
            await store.insert([kid, record], now=now)
        case _:
            await store.insert([record], now=now)
            held = await take_one(store, record.id, queue=record.queue, now=now)
            await settle(store, ENDINGS[state.value](held), now=now)
    if state is JobState.ACTIVE:
        return await take_one(store, record.id, queue=record.queue, now=now)
    return await get(store, record.id, queue=record.queue, now=now)
