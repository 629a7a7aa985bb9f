"""Crashes: a call that is cancelled at any of its awaits has happened wholly or not at all."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    AT_ONCE,
    LEASE,
    MANY,
    at,
    claim,
    completed,
    failed,
    job,
    new_token,
    retried,
    span,
    take_by_id,
)
from conveyor.core.store import (
    Beat,
    Change,
    Feature,
    JobKey,
    JobRecord,
    JobState,
    Limit,
    Outcome,
    Pause,
    Store,
    Where,
)

#: No store has more awaits than this in a call of these tests.
MOST = 500


class CutOff:
    """A call that is cancelled as it begins its n-th wait."""

    def __init__(self, call: Coroutine[Any, Any, Any], after: int) -> None:
        """Cancel `call` at its wait number `after`, counted from 1."""
        self._call = call
        self._after = after
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        """Pass on what the call waits for, until it is cut off."""
        inner = self._call.__await__()
        step: Callable[[], Any] = functools.partial(next, inner)
        while True:
            try:
                waiting = step()
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits == self._after:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waiting
            except BaseException as error:  # noqa: BLE001 - it is the call's to deal with
                step = functools.partial(inner.throw, error)
            else:
                step = functools.partial(next, inner)


async def cut(call: Coroutine[Any, Any, Any], after: int) -> bool:
    """Cancel a call at its wait number `after`, and say whether it got that far."""
    cut_off = CutOff(call, after)

    async def run() -> None:
        await cut_off

    task = asyncio.create_task(run())
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
    return cut_off.waits >= after


@dataclass(frozen=True, kw_only=True)
class World:
    """A place for one attempt: two queues of its own, tokens of its own."""

    store: Store
    name: str
    token: str

    @property
    def queue(self) -> str:
        """The queue in which it happens."""
        return f"{self.name}-q"

    @property
    def other(self) -> str:
        """Another queue."""
        return f"{self.name}-other"

    def has(self, feature: Feature) -> bool:
        """Whether the store offers this."""
        return feature in self.store.features

    def job(self, id: str, **fields: Any) -> JobRecord:
        """A job of this world, with what of its fields the store offers."""
        wanted = {
            "unique_key": Feature.UNIQUE_KEYS,
            "group": Feature.GROUPS,
            "parent": Feature.FLOWS,
        }
        offered = {key: value for key, value in fields.items() if key not in wanted or self.has(wanted[key])}
        return job(id, queue=offered.pop("queue", self.queue), **offered)

    def child(self, id: str, **fields: Any) -> JobRecord:
        """A child of the job "parent" of this world."""
        return self.job(id, parent=JobKey(self.queue, "parent"), **fields)

    async def hold(self, *names: str) -> list[JobRecord]:
        """Claim these jobs, in this order."""
        held: list[JobRecord] = []
        for name in names:
            held += await take_by_id(
                self.store, [name], queue=self.queue, token=f"{self.token}-{name}", now=at(0)
            )
        return held

    async def snapshot(self) -> list[JobRecord]:
        """Everything there is in this world, written so that two worlds can be compared."""
        found = await self.store.find(Where(), limit=MANY, now=at(2))
        mine = [one for one in found if one.queue in {self.queue, self.other}]
        return [
            replace(
                one,
                seq=n,
                queue=one.queue.removeprefix(self.name),
                parent=one.parent and JobKey(one.parent.queue.removeprefix(self.name), one.parent.id),
                token=one.token and one.token.removeprefix(self.token),
            )
            for n, one in enumerate(mine)
        ]


#: Prepares a world, and returns a call that can be made in it any number of times.
Scene = Callable[[World], Awaitable[Callable[[], Coroutine[Any, Any, Any]]]]


async def inserting(w: World) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Insert a family, a holder of a key, a delayed job, and one of another queue."""
    await w.store.insert([w.job("there")], now=at(0))
    records = [
        w.child("kid-1"),
        w.child("kid-2", queue=w.other),
        w.job("parent", delay=span(5)),
        w.job("key", unique_key="k"),
        w.job("there"),
        w.job("later", delay=span(60), group="g"),
    ]
    return lambda: w.store.insert(records, now=at(1))


async def claiming(w: World) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Claim several jobs."""
    await w.store.insert([w.job(str(n), group="gh"[n % 2]) for n in range(5)], now=at(0))
    limit = Limit(active=3) if w.has(Feature.ACTIVE_LIMITS) else None
    request = claim(3, queue=w.queue, token=w.token, limit=limit)
    return lambda: w.store.claim(request, now=at(1))


async def claiming_by_ids(w: World) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Claim several jobs by their ids."""
    await w.store.insert([w.job(str(n), delay=span(60 * (n % 2))) for n in range(5)], now=at(0))
    return lambda: w.store.take(w.queue, "134", token=w.token, lease=LEASE, now=at(1))


async def renewing(w: World) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Renew two leases, and write what they carry."""
    await w.store.insert([w.job("a"), w.job("b")], now=at(0))
    beats = [Beat(lease=held.lease, report="1", payload="2") for held in await w.hold("a", "b")]
    return lambda: w.store.renew(beats, LEASE, now=at(1))


async def settling(w: World) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Settle a batch that releases, removes, spawns and retries."""
    await w.store.insert(
        [
            w.child("kid-1"),
            w.child("kid-2"),
            w.job("parent"),
            w.job("again"),
            w.job("key", unique_key="k"),
            w.job("gone"),
        ],
        now=at(0),
    )
    kid_1, kid_2, again, key, gone = await w.hold("kid-1", "kid-2", "again", "key", "gone")
    outcomes = [
        completed(kid_1),
        retried(again, delay=5),
        failed(kid_2),
        completed(key, spawn=(w.job("next", unique_key="k"), w.job("elsewhere", queue=w.other))),
        completed(gone, retention=AT_ONCE),
    ]
    return lambda: w.store.settle(outcomes, now=at(1))


async def awaiting(w: World) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Settle a job that waits for children it brings."""
    await w.store.insert([w.job("parent"), w.job("b")], now=at(0))
    parent, b = await w.hold("parent", "b")
    kids = (w.child("kid-1"), w.child("kid-2", queue=w.other))
    outcomes = [Outcome.awaiting(parent, "1", children=kids), Outcome.given_back(b)]
    return lambda: w.store.settle(outcomes, now=at(1))


async def advancing(w: World) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Let jobs become due and leases run out."""
    names = "abcd"
    await w.store.insert([w.job(n, delay=span(5) if n in "ab" else None) for n in names], now=at(0))
    await w.hold("c", "d")
    return lambda: w.store.advance({w.queue, w.other}, now=at(60))


async def changing(w: World) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Change several jobs."""
    await w.store.insert([w.job(n, delay=span(5) if n in "ab" else None) for n in "abcd"], now=at(0))
    await w.hold("c")
    change = Change(payload="9", priority=4, delay=span(60), cancel=True, report="9")
    return lambda: w.store.update(Where(queue=w.queue), change, now=at(1))


async def retrying(w: World) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Retry children that failed, of a parent that failed."""
    await w.store.insert([w.child("kid-1"), w.child("kid-2"), w.job("parent")], now=at(0))
    for name in ("kid-1", "kid-2", "parent"):
        await w.store.settle([failed(held) for held in await w.hold(name)], now=at(1))
    kids = Where(queue=w.queue, ids=frozenset({"kid-1", "kid-2"}))
    return lambda: w.store.update(kids, Change(retry=True), now=at(2))


async def removing(w: World) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Delete children, whose parents are released."""
    await w.store.insert([w.child(n, queue=w.other) for n in "abc"] + [w.job("parent")], now=at(0))
    return lambda: w.store.delete(Where(queue=w.other), limit=9, now=at(1))


async def forgetting(w: World) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Forget a queue of children, whose parents are released."""
    await w.store.insert([w.child(n, queue=w.other) for n in "abc"] + [w.job("parent")], now=at(0))
    return lambda: w.store.forget(w.other, now=at(1))


SCENES: dict[str, Scene] = {
    scene.__name__: scene
    for scene in (
        inserting,
        claiming,
        claiming_by_ids,
        renewing,
        settling,
        awaiting,
        advancing,
        changing,
        retrying,
        removing,
        forgetting,
    )
}
#: Calls that find more to do each time.
NOT_REPEATED = {"claiming"}


@area("crashes")
class Crashes:
    """Invariant 2: one step."""

    @pytest.mark.parametrize("scene", SCENES)
    async def test_a_call_cancelled_at_any_await_happened_wholly_or_not_at_all(
        self, store: Store, scene: str
    ) -> None:
        if scene == "awaiting" and Feature.FLOWS not in store.features:
            return
        whole = World(store=store, name="whole", token=new_token())
        call = await SCENES[scene](whole)
        await call()
        after = await whole.snapshot()

        for n in itertools.count(1):
            assert n < MOST
            world = World(store=store, name=f"w{n}", token=new_token())
            call = await SCENES[scene](world)
            before = await world.snapshot()

            reached = await cut(call(), n)

            seen = await world.snapshot()
            assert seen in (before, after), f"{scene}, cancelled at its await number {n}, happened in part"
            if scene not in NOT_REPEATED:
                await call()
                assert await world.snapshot() == after, f"{scene}, repeated after a cancellation"
            if not reached:
                break

    async def test_a_store_works_on_after_cancelled_calls(self, store: Store) -> None:
        world = World(store=store, name="w", token=new_token())
        for n in range(1, 12):
            await cut(store.insert([world.job(f"job-{n}")], now=at(0)), n % 4)
            await cut(store.claim(claim(1, queue="nothing"), now=at(0)), n % 4)
            await cut(store.find(Where(), limit=5, now=at(0)), n % 4)
            await cut(store.pause(world.other, Pause(), now=at(0)), n % 4)

        await store.insert([world.job(f"job-{n}") for n in range(1, 12)], now=at(1))

        found = await store.find(Where(queue=world.queue), limit=MANY, now=at(1))
        assert {one.id for one in found} == {f"job-{n}" for n in range(1, 12)}

    async def test_jobs_of_a_claim_that_was_cut_off_come_back_when_its_leases_run_out(
        self, store: Store
    ) -> None:
        await store.insert([job(str(n)) for n in range(8)], now=at(0))
        for n in itertools.count(1):
            if not await cut(store.claim(claim(3), now=at(0)), n):
                break
            await store.advance({"q"}, now=at(60))
            counts = await store.count(Where(queue="q"), now=at(60))
            assert counts == {("q", JobState.WAITING): 8}
