"""Every call of the contract beside a table of a known shape, for tests that count what a store does.

What a call costs must not grow with the jobs that it is not about. How that is counted is the store's own
affair (instructions of a database, pages, bytecodes), so this is no area of the suite: a store's tests pass
in `measure`, which makes one call and returns what it cost with what it answered, and compare the costs
beside a few jobs with those beside a great many.

Left out is what the contract allows to grow: an exact count, a set without a queue, a set by names or by age
that few jobs of its states are in, `Order.CLAIM` of jobs that are not waiting, a limit of active jobs as
great as the table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

from conveyor.conformance.kit.make import DONE, LEASE, START, claim, job, jobs, new_token, span
from conveyor.core.store import (
    Beat,
    Change,
    Claimed,
    Feature,
    JobKey,
    JobRecord,
    JobState,
    Limit,
    Order,
    Outcome,
    Pause,
    Rate,
    Retention,
    Stalled,
    Store,
    Where,
)

T = TypeVar("T")
#: Makes one call: what it cost, and its answer.
Measure = Callable[[Callable[[], Awaitable[Any]]], Awaitable[tuple[int, Any]]]

SHAPES: Final = ("waiting", "delayed", "active", "paused name", "groups", "finished")
GROUPS: Final = 1_000
#: The jobs of one call.
_FEW: Final = 5
_PAGE: Final = 10
_LATER: Final = span(36_000)
_AGO: Final = timedelta(hours=2)
_LONG: Final = Retention(age=timedelta(days=36_500))
_RATE: Final = Rate(max=1_000_000, per=timedelta(hours=1))
#: Orders of sets that are found by their states; the jobs that are not waiting have no order of claims.
_ORDERS: Final = {
    None: tuple(order for order in Order if order is not Order.CLAIM),
    JobState.WAITING: tuple(Order),
}


async def fill(store: Store, shape: str, number: int) -> None:
    """Add so many jobs to queue "q", and bring them into that shape, by the contract."""
    for first in range(0, number, 1_000):
        numbers = range(first, min(number, first + 1_000))
        await store.insert([_of_shape(shape, n) for n in numbers], now=START)
        if shape in {"active", "finished"}:
            held = await store.claim(claim(number, token=new_token(), lease=_LATER), now=START)
            if shape == "finished":
                # One half longer ago, and kept for long: by default none of these goes.
                kept, plain = held.jobs[: len(held.jobs) // 2], held.jobs[len(held.jobs) // 2 :]
                await store.settle(
                    [Outcome.completed(one, DONE, retention=_LONG) for one in kept], now=START - _AGO
                )
                await store.settle([Outcome.completed(one, DONE) for one in plain], now=START)
    await begin(store, shape)


async def begin(store: Store, shape: str) -> None:
    """Do what belongs to a shape besides its jobs."""
    if shape == "paused name":
        await store.pause("q", Pause(name="paused"), now=START)


def _of_shape(shape: str, n: int) -> JobRecord:
    match shape:
        case "delayed":
            return job(f"old-{n}", delay=_LATER)
        case "paused name":
            return job(f"old-{n}", name="paused")
        case "groups":
            return job(f"old-{n}", group=f"group-{n % GROUPS}")
        case _:
            return job(f"old-{n}")


@dataclass(slots=True)
class _Bill:
    """What each call cost, by a name for it."""

    store: Store
    measure: Measure
    costs: dict[str, int]

    async def of(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, note what it cost, and pass its answer on."""
        answer: T
        self.costs[name], answer = await self.measure(call)
        return answer


async def costs(store: Store, measure: Measure) -> dict[str, int]:
    """What each call of the contract costs on queue "q", whatever is in it already."""
    bill = _Bill(store, measure, {})
    await _inserting(bill)
    await _moving(bill)
    await _reading(bill)
    await _changing(bill)
    await _pausing(bill)
    return bill.costs


async def _inserting(bill: _Bill) -> None:
    store = bill.store
    new: dict[str, list[JobRecord]] = {
        "jobs": jobs((f"new-{n}" for n in range(60)), priority=-1),
        "delayed jobs": jobs((f"later-{n}" for n in range(_FEW)), delay=_LATER),
        "the same jobs again": jobs(f"later-{n}" for n in range(_FEW)),
    }
    if Feature.UNIQUE_KEYS in store.features:
        new["jobs with keys"] = [job(f"key-{n}", unique_key=f"key-{n}") for n in range(_FEW)]
    if Feature.GROUPS in store.features:
        grouped = [job(f"grouped-{n}", group=f"new-{n}", group_max_size=9) for n in range(_FEW)]
        new["jobs of groups"] = [*grouped, job("grouped", group="new-0", name="other")]
    if Feature.FLOWS in store.features:
        new["a flow"] = [job("parent"), *(job(f"child-{n}", parent=JobKey("q", "parent")) for n in range(3))]
    for name, records in new.items():
        await bill.of(f"insert {name}", lambda records=records: store.insert(records, now=START))  # type: ignore[misc]


async def _moving(bill: _Bill) -> None:
    store = bill.store
    claims: dict[str, dict[str, Any]] = {
        "": {},
        " newest first": {"newest_first": True},
        " by name": {"names": frozenset({"work", "other"})},
    }
    if Feature.RATE_LIMITS in store.features:
        claims[" within a limit"] = {"limit": Limit(rate=_RATE)}
    if Feature.GROUPS in store.features:
        claims[" within a group limit"] = {"group_limit": Limit(active=500, rate=_RATE)}
    calls: dict[str, Callable[[], Awaitable[Claimed]]] = {
        f"claim{name}": partial(
            store.claim, claim(_FEW, token=new_token(), stalled=Stalled.LEFT, **fields), now=START
        )
        for name, fields in claims.items()
    }
    some = [f"new-{n}" for n in range(_FEW)]
    calls["take"] = partial(store.take, "q", some, token=new_token(), lease=LEASE, now=START)
    for name, call in calls.items():
        held = (await bill.of(name, call)).jobs
        assert len(held) == _FEW
        beats = [Beat(lease=one.lease, report=DONE) for one in held]
        await bill.of(f"renew after {name}", lambda beats=beats: store.renew(beats, LEASE, now=START))  # type: ignore[misc]
        back = [Outcome.given_back(one) for one in held]
        await bill.of(f"give back after {name}", lambda back=back: store.settle(back, now=START))  # type: ignore[misc]
    ends: dict[str, Callable[[JobRecord], Outcome]] = {
        "complete": lambda one: Outcome.completed(one, DONE),
        "complete and remove": lambda one: Outcome.completed(
            one, DONE, retention=Retention(age=timedelta(0))
        ),
        "snooze": lambda one: Outcome.snoozed(one, DONE, delay=_LATER),
    }
    for name, end in ends.items():
        got = await store.claim(claim(_FEW, token=new_token()), now=START)
        outcomes = [end(one) for one in got.jobs]
        assert len(outcomes) == _FEW
        await bill.of(name, lambda outcomes=outcomes: store.settle(outcomes, now=START))  # type: ignore[misc]
    await bill.of("advance", lambda: store.advance({"q"}, now=START))


async def _reading(bill: _Bill) -> None:
    store, q = bill.store, Where(queue="q")
    sets: dict[str, tuple[Where, tuple[Order, ...]]] = {
        "all": (q, _ORDERS[None]),
        "expired": (Where(queue="q", expired=True), tuple(Order)),
        "by ids": (Where(queue="q", ids=frozenset({"new-0", "later-0"})), tuple(Order)),
    }
    for name, age in {"unretained": timedelta(0), "unretained and old": _AGO}.items():
        done = frozenset({JobState.COMPLETED, JobState.CANCELLED})
        where = Where(queue="q", states=done, unretained=True, older_than=age)
        sets[name] = where, (Order.EARLIEST,)
    for state in JobState:
        where = Where(queue="q", states=frozenset({state}))
        sets[str(state)] = where, _ORDERS.get(state, _ORDERS[None])
    if Feature.UNIQUE_KEYS in store.features:
        sets["by key"] = Where(queue="q", unique_key="key-1"), tuple(Order)
    if Feature.FLOWS in store.features:
        sets["by parent"] = Where(parent=JobKey("q", "parent")), tuple(Order)
    for name, (where, orders) in sets.items():
        for order in orders:

            async def page(
                after: JobRecord | None = None, where: Where = where, order: Order = order
            ) -> list[JobRecord]:
                return list(await store.find(where, limit=_PAGE, after=after, order=order, now=START))

            found = await bill.of(f"find {name}, {order}", page)
            if found:
                await bill.of(f"find {name}, {order}, behind one", lambda: page(found[-1]))  # noqa: B023 - awaited here
        if not (name == "all" or name.startswith("unretained") or name in set(JobState)):
            await bill.of(f"count {name}", lambda: store.count(where, now=START))  # noqa: B023 - likewise
    await bill.of("count at most so many", lambda: store.count(q, most=100, now=START))
    live = Where(queue="q", states=frozenset({JobState.WAITING, JobState.DELAYED}))
    await bill.of("count at most so many by state", lambda: store.count(live, most=100, now=START))


async def _changing(bill: _Bill) -> None:
    store = bill.store
    two = Where(queue="q", ids=frozenset({"new-20", "later-0"}))
    changes = {
        "the payload": Change(payload="1"),
        "the priority": Change(priority=-2),
        "the delay": Change(delay=_LATER),
        "nothing that is finished": Change(retry=True),
    }
    for name, change in changes.items():
        await bill.of(f"update {name}", lambda change=change: store.update(two, change, now=START))  # type: ignore[misc]
    if Feature.UNIQUE_KEYS in store.features:
        held = Where(queue="q", unique_key="key-2")
        await bill.of("release a key", lambda: store.update(held, Change(release_key=True), now=START))
    for state in JobState:
        some = Where(queue="q", states=frozenset({state}))
        await bill.of(f"delete {state}", lambda some=some: store.delete(some, limit=3, now=START))  # type: ignore[misc]
    for name, where in {
        "all": Where(queue="q"),
        "by ids": two,
        "expired": Where(queue="q", expired=True),
    }.items():
        await bill.of(f"delete {name}", lambda where=where: store.delete(where, limit=3, now=START))  # type: ignore[misc]


async def _pausing(bill: _Bill) -> None:
    store = bill.store
    pauses = [Pause(), Pause(name="work")]
    if Feature.GROUPS in store.features:
        pauses.append(Pause(group="new-1"))
    for what in pauses:
        await bill.of(f"pause {what}", lambda what=what: store.pause("q", what, LEASE, now=START))  # type: ignore[misc]
        await bill.of(f"paused {what}", lambda: store.paused("q", now=START))
        await bill.of(f"resume {what}", lambda what=what: store.resume("q", what, now=START))  # type: ignore[misc]


def grown(few: dict[str, int], many: dict[str, int], *, spare: int) -> dict[str, tuple[int, int]]:
    """The calls that cost half as much again, and `spare` more, beside the greater table."""
    return {name: (few[name], many[name]) for name in few if many.get(name, 0) > few[name] * 1.5 + spare}
