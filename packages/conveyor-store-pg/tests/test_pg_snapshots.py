"""A call of several statements does what it decides by one moment, whatever others do between them.

Each statement of a transaction sees what was committed before it, so two of them see two moments. Each test
here stops a call before its first statement, and lets others do something; then before its second, and so on.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from conveyor.core.store import Claim, Claimed, JobRecord, JobState, Limit, Outcome, Pause, Where
from conveyor.store.pg import PgStore, connections
from conveyor.store.pg.statements import AsyncSession, Row

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_snapshots")]

Watching = psycopg.AsyncConnection[Any]
NOW = datetime(2030, 1, 1, tzinfo=UTC)
#: More statements than any call here makes.
MANY = 40


@pytest.fixture(scope="module")
def url(module_database: str) -> str:
    return module_database


@pytest.fixture
async def other(url: str) -> AsyncIterator[PgStore]:
    """What the others do, they do with this."""
    async with PgStore(url, notify=False) as store:
        yield store


class Stopped:
    """A store whose calls stop before one of their statements, while others do something."""

    def __init__(self, url: str, watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = PgStore(url, notify=False)
        self.watching = watching
        self.others: asyncio.Future[object] | None = None
        self.left = -1
        self.meanwhile: Callable[[], Awaitable[object]] | None = None
        stopped = self

        class StoppingSession(AsyncSession):
            async def query(self, statement: bytes, values: Mapping[str, Any]) -> list[Row]:
                await stopped.stop()
                return await super().query(statement, values)

            async def run(self, name: str, /, **values: Any) -> int:
                await stopped.stop()
                return await super().run(name, **values)

        self._session = StoppingSession
        self._monkeypatch = monkeypatch

    def _patch(self) -> None:
        self._monkeypatch.setattr(connections, "AsyncSession", self._session)

    def _undo(self) -> None:
        self._monkeypatch.setattr(connections, "AsyncSession", AsyncSession)

    async def stop(self) -> None:
        self.left -= 1
        if self.left == 0 and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            self._undo()
            self.others = asyncio.ensure_future(meanwhile())
            await self._done_or_locked_out(self.others)
            self._patch()

    async def _done_or_locked_out(self, others: asyncio.Future[object]) -> None:
        """Wait until the others have done it, or wait themselves for a lock that the stopped call has."""
        while not others.done():
            cursor = await self.watching.execute(
                "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            )
            if cursor.rowcount > 0:
                return
            await asyncio.sleep(0)

    async def _others_are_done(self) -> None:
        if self.others is not None:
            await self.others

    async def before_each(
        self,
        begin: Callable[[str], Awaitable[Any]],
        call: Callable[[str], Awaitable[Any]],
        meanwhile: Callable[[str, Any], Awaitable[object]],
        check: Callable[[str, Any], Awaitable[object]],
    ) -> None:
        """Make the call again and again, on a fresh queue each time, stopped before another statement."""
        for n in range(1, MANY):
            queue = f"q-{uuid4().hex[:12]}"
            begun = await begin(queue)
            self.others = None
            self.left, self.meanwhile = n, partial(meanwhile, queue, begun)
            self._patch()
            try:
                result = await call(queue)
            finally:
                self._undo()
            await self._others_are_done()
            await check(queue, result)
            if self.left > 0:  # it has made fewer statements than that
                assert n > 1
                return
        pytest.fail("the call makes too many statements")


@pytest.fixture
async def stopped(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stopped]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as watching:
        found = Stopped(url, watching, monkeypatch)
        async with found.store:
            yield found


ids = itertools.count()


def job(queue: str, name: str = "x", **fields: Any) -> JobRecord:
    return JobRecord(queue=queue, id=f"j{next(ids)}", name=name, **fields)


def request(queue: str, count: int = 10, **fields: Any) -> Claim:
    lease = timedelta(seconds=30)
    return Claim(queue=queue, count=count, token=uuid4().hex, lease=lease, worker="w", **fields)


def names_of(claimed: Claimed) -> list[str]:
    return [job.name for job in claimed.jobs]


# ------------------------------------------------------------------ names


@pytest.mark.parametrize("group", [None, "a"])
@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("how", ["paused before", "paused meanwhile", "not asked for"])
async def test_the_first_job_of_a_name_that_may_not_be_claimed_is_not(
    stopped: Stopped, other: PgStore, *, how: str, newest_first: bool, group: str | None
) -> None:
    names = frozenset({"x"}) if how == "not asked for" else None

    async def begin(queue: str) -> None:
        await other.insert([job(queue, group=group)])
        await other.pause(queue, Pause(name="theirs" if how == "paused before" else "another"))

    async def claim(queue: str) -> Claimed:
        return await stopped.store.claim(request(queue, newest_first=newest_first, names=names))

    async def add(queue: str, _: None) -> None:
        if how == "paused meanwhile":
            await other.pause(queue, Pause(name="theirs"))
        await other.insert([job(queue, "theirs", group=group), job(queue, "theirs")])

    async def check(_: str, claimed: Claimed) -> None:
        assert names_of(claimed) == ["x"]

    await stopped.before_each(begin, claim, add, check)


async def test_what_is_added_after_a_pause_of_the_queue_is_not_claimed(
    stopped: Stopped, other: PgStore
) -> None:
    async def begin(queue: str) -> None:
        await other.insert([job(queue), job(queue, group="a")])
        await other.pause(queue, Pause(name="another"))

    async def claim(queue: str) -> Claimed:
        return await stopped.store.claim(request(queue))

    async def pause(queue: str, _: None) -> None:
        await other.pause(queue, Pause())
        await other.insert([job(queue, "late"), job(queue, "late", group="a"), job(queue, "late", group="b")])

    async def check(_: str, claimed: Claimed) -> None:
        assert "late" not in names_of(claimed)

    await stopped.before_each(begin, claim, pause, check)


# ------------------------------------------------------------------ groups


async def taken(store: PgStore, queue: str, count: int) -> list[Outcome]:
    """Claim jobs, and say how they will end."""
    claimed = await store.claim(request(queue, count))
    assert len(claimed.jobs) == count
    return [Outcome.completed(record, "{}") for record in claimed.jobs]


@pytest.mark.parametrize("limit", [None, Limit(active=2)])
@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_group_of_which_a_job_ends_meanwhile_is_not_passed_over(
    stopped: Stopped, other: PgStore, *, newest_first: bool, limit: Limit | None
) -> None:
    async def begin(queue: str) -> list[Outcome]:
        await other.insert([job(queue, f"n{n}", group="a") for n in range(3)])
        ends = await taken(other, queue, 1)
        await other.insert([job(queue, "late", group="b", priority=5), job(queue, "late", priority=5)])
        return ends

    async def claim(queue: str) -> Claimed:
        return await stopped.store.claim(request(queue, 1, newest_first=newest_first, group_limit=limit))

    async def settle(_: str, ends: list[Outcome]) -> None:
        await other.settle(ends)

    async def check(_: str, claimed: Claimed) -> None:
        assert names_of(claimed) == ["n2" if newest_first else "n1"]

    await stopped.before_each(begin, claim, settle, check)


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("count", [1, 4])
async def test_of_jobs_that_are_added_together_the_most_urgent_go_first(
    stopped: Stopped, other: PgStore, *, count: int, newest_first: bool
) -> None:
    """The claim sees all of them or none."""

    async def begin(queue: str) -> None:
        await other.insert([job(queue, "before", group="a") for _ in range(2)])
        await other.settle(await taken(other, queue, 1))

    async def claim(queue: str) -> Claimed:
        return await stopped.store.claim(request(queue, count, newest_first=newest_first))

    async def add(queue: str, _: None) -> None:
        await other.insert([job(queue, "urgent", group="c", priority=-2) for _ in range(4)])
        late = [
            job(queue, "late", priority=-1),
            *(job(queue, "late", group=group, priority=-1) for group in "ab"),
        ]
        await other.insert(late)

    async def check(_: str, claimed: Claimed) -> None:
        assert names_of(claimed) in (["before"], ["urgent"] * count)

    await stopped.before_each(begin, claim, add, check)


async def test_a_claim_that_needs_more_of_a_lane_than_it_read_keeps_their_order(
    stopped: Stopped, other: PgStore
) -> None:
    async def begin(queue: str) -> None:
        await other.insert([job(queue, "hot", group="hot", priority=-1) for _ in range(6)])
        await other.insert([job(queue, "cold", group=f"g{n}") for n in range(5)])

    async def claim(queue: str) -> Claimed:
        return await stopped.store.claim(request(queue, 8))

    async def add(queue: str, _: None) -> None:
        await other.insert([job(queue, "hot", group="hot", priority=-1) for _ in range(3)])

    async def check(_: str, claimed: Claimed) -> None:
        assert names_of(claimed) in (["hot"] * 6 + ["cold"] * 2, ["hot"] * 8)

    await stopped.before_each(begin, claim, add, check)


# ------------------------------------------------------------------ times


@pytest.mark.parametrize("what", [Pause(name="x"), Pause(group="a"), None])
async def test_a_claim_knows_of_a_time_that_comes_while_it_looks(
    stopped: Stopped, other: PgStore, what: Pause | None
) -> None:
    """By the clock of others the pause is over, or the job is due, and they note it."""
    soon = timedelta(seconds=5)

    async def begin(queue: str) -> None:
        if what is not None:
            await other.pause(queue, what, soon, now=NOW)
        delay = soon if what is None else None
        await other.insert([job(queue, group="a" if what else None, delay=delay)], now=NOW)

    async def claim(queue: str) -> Claimed:
        return await stopped.store.claim(request(queue), now=NOW)

    async def advance(queue: str, _: None) -> None:
        await other.advance({queue}, now=NOW + 2 * soon)

    async def check(_: str, claimed: Claimed) -> None:
        assert claimed.jobs or claimed.wait is not None
        assert claimed.wait is None or claimed.wait <= soon

    await stopped.before_each(begin, claim, advance, check)


# ------------------------------------------------------------------ forgetting


async def test_a_job_that_is_added_while_its_queue_is_forgotten_can_be_claimed(
    stopped: Stopped, other: PgStore
) -> None:
    async def begin(queue: str) -> None:
        await other.insert([job(queue, group="a"), job(queue, group="b")])
        await other.settle(await taken(other, queue, 1))
        await other.pause(queue, Pause(group="b"))

    async def forget(queue: str) -> None:
        await stopped.store.forget(queue)

    async def add(queue: str, _: None) -> None:
        await other.insert([job(queue, "new", group="a"), job(queue, "new", group="b"), job(queue, "new")])

    async def check(queue: str, _: None) -> None:
        waiting = await other.find(Where(queue=queue, states=frozenset({JobState.WAITING})), limit=10)
        claimed = await other.claim(request(queue))
        assert len(claimed.jobs) == len(waiting)
        assert await other.paused(queue) == {}

    await stopped.before_each(begin, forget, add, check)
