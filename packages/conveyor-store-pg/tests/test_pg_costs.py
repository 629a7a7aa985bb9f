"""What a call costs does not depend on the backlog: its size, its shape, or what the server knows of it.

Each call is made beside 50,000 jobs of one shape or more, in a transaction that is rolled back, and what
each statement looks at is counted: with statistics and without, by the generic plan and by the one made for
its values; and by the plan that a connection has kept from when there were 400 jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg import Connection

from conveyor.core.store import (
    Beat,
    Change,
    Claim,
    JobKey,
    JobRecord,
    JobState,
    Lease,
    Limit,
    Order,
    Outcome,
    Pause,
    Rate,
    Retention,
    Stalled,
    Where,
)
from conveyor.store.pg import PgStore, advancing, claiming, inserting, pausing, sets, settling
from conveyor.store.pg.connections import _PLAN_FOR_MORE
from conveyor.store.pg.statements import Session
from pg_explaining import Explaining, Seen

NOW = datetime(2030, 1, 1, tzinfo=UTC)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_costs")]


@dataclass(frozen=True)
class Shape:
    """What all the jobs of a backlog are."""

    state: str
    name: str = "'work'"
    group: str = "null"
    jobs: int = 50_000


SHAPES: Final = {
    "waiting": Shape("'waiting'", jobs=100_000),
    "delayed": Shape("'delayed'"),
    "active": Shape("'active'"),
    "paused": Shape("'waiting'", name="'paused'"),
    "grouped": Shape("'waiting'", group="'g' || n % 1000"),
    "finished": Shape("'completed'"),
}
#: How the server comes to its plans. The first is of before there were statistics, which the last makes.
WAYS: Final = ("plans kept", "not analysed", "analysed")
_NO_STATISTICS: Final = """
delete from pg_statistic where starelid in (
  select oid from pg_class where relnamespace = '{schema}'::regnamespace
);
update pg_class set reltuples = -1, relpages = 0, relallvisible = 0
 where relnamespace = '{schema}'::regnamespace and relkind in ('r', 'i') and relname like 'conveyor%'
"""


@pytest.fixture(scope="module")
def url(module_database: str) -> str:
    return module_database


@dataclass
class Filled:
    """The tables of one shape, and a session that has planned all statements when they were small."""

    schema: str
    kept: Explaining
    analysed: bool = False
    #: Whether rows by the thousand are dead, rolled back by others. An index passes each of them once: the
    #: newest of all are in the way of a claim of the newest.
    littered: bool = True


@pytest.fixture(scope="module", params=SHAPES)
def filled(url: str, request: pytest.FixtureRequest) -> Iterator[Filled]:
    name: str = request.param

    async def create() -> None:
        async with PgStore(url, schema=name, notify=False) as store:
            if name == "paused":
                await store.pause("q", Pause(name="paused"))

    asyncio.run(create())
    with psycopg.connect(url, autocommit=True) as connection, psycopg.connect(url) as keeping:
        for table in ("jobs", "groups", "subqueues", "tombstones"):
            change = f"alter table {name}.conveyor_{table} set (autovacuum_enabled = false)"
            connection.execute(change.encode())
        fill(connection, name, backlog=(1, 200), live=(200_001, 200_200))
        connection.execute("analyze")
        keeping.prepare_threshold = None  # or a rollback would make it forget all plans
        keeping.execute(_PLAN_FOR_MORE)
        keeping.commit()
        kept = Explaining(keeping, name, keeps=True)
        asyncio.run(do_all(kept))
        fill(connection, name, backlog=(201, SHAPES[name].jobs), live=(200_201, 204_000))
        yield Filled(name, kept)
        connection.execute(f"drop schema {name} cascade".encode())


def fill(
    connection: Connection[Any], schema: str, *, backlog: tuple[int, int], live: tuple[int, int]
) -> None:
    text = (Path(__file__).parent / "pg_shapes.sql").read_text(encoding="utf-8").replace("{schema}", schema)
    for field in ("state", "name", "group"):
        text = text.replace(f"{{{field}}}", getattr(SHAPES[schema], field))
    for field, (first, last) in {"backlog": backlog, "live": live}.items():
        text = text.replace(f"{{{field}}}", f"{first}, {last}")
    connection.execute(text.encode())


async def do_all(session: Explaining) -> None:
    for action in (*MANY.values(), *ACTIONS.values()):
        with suppress(AssertionError):  # there are not enough jobs yet for all
            await action(session)
        session.connection.rollback()


@pytest.fixture
def session(url: str, filled: Filled, request: pytest.FixtureRequest) -> Iterator[Explaining]:
    if request.param == "plans kept":
        assert not filled.analysed  # by that, plans that were kept are made anew
        filled.kept.seen.clear()
        yield filled.kept
        filled.kept.connection.rollback()
        filled.littered = True
        return
    with psycopg.connect(url) as connection:
        many = request.node.callspec.params["name"] in MANY
        analyse = request.param == "analysed" and not filled.analysed
        if analyse or (filled.littered and not many):
            connection.autocommit = True
            connection.execute(f"vacuum (index_cleanup on, analyze {analyse})".encode())
            connection.autocommit = False
            filled.littered = False
            filled.analysed = analyse or filled.analysed
        if request.param == "not analysed":
            connection.execute(_NO_STATISTICS.replace("{schema}", filled.schema).encode())
        yield Explaining(connection, filled.schema)
        connection.rollback()
        filled.littered = many or filled.littered


# ------------------------------------------------------------------ what is done


def claim(**fields: object) -> Claim:
    given = {"queue": "q", "count": 10, "token": "token", "lease": timedelta(seconds=30), "worker": "w"}
    return Claim(**(given | {"stalled": Stalled.LEFT} | fields))  # type: ignore[arg-type]


def job(n: int, **fields: object) -> JobRecord:
    return JobRecord(**({"queue": "q", "id": f"new-{n}", "name": "work"} | fields))  # type: ignore[arg-type]


def claimed(**fields: object) -> Callable[[Session], Awaitable[None]]:
    async def action(session: Session) -> None:
        taken = await claiming.claim(session, NOW, claim(**fields))
        assert len(taken.jobs) == 10

    return action


def taken(wanted: frozenset[str]) -> Callable[[Session], Awaitable[None]]:
    async def action(session: Session) -> None:
        assert len((await claiming.take(session, NOW, wanted, claim())).jobs) == 10

    return action


async def claim_fast(session: Session) -> None:
    await claiming.claim_fast(session, NOW, claim())


def live(*kinds: int, most: int = 10) -> list[int]:
    """The numbers of live jobs of these kinds."""
    return [n for n in range(200_001, 204_001) if n % 10 in kinds][:most]


def outcomes(numbers: list[int]) -> list[Outcome]:
    def outcome(n: int) -> Outcome:
        lease = Lease("q", f"j{n}", f"t{n}")
        if n % 10 == 0:
            return Outcome(lease=lease, state=JobState.WAITING, attempt=0)
        retention = Retention(age=timedelta(0)) if n % 10 == 1 else None
        return Outcome(lease=lease, state=JobState.COMPLETED, attempt=1, report="{}", retention=retention)

    return [outcome(n) for n in numbers]


def beats(numbers: list[int]) -> list[Beat]:
    return [Beat(lease=Lease("q", f"j{n}", f"t{n}"), report="{}", payload="{}") for n in numbers]


async def settle_fast(session: Session) -> None:
    assert await settling.settle_fast(session, NOW, outcomes(live(0, 1, 2))) is not None


async def settle_by_slow_path(session: Session) -> None:
    ends = outcomes(live(0, 1, 2))
    assert len((await settling.settle(session, NOW, ends)).applied) == 10
    assert len((await settling.settle(session, NOW, ends)).applied) == 10  # those that are gone are known


async def settle_in_groups(session: Session) -> None:
    taken = (await claiming.claim(session, NOW, claim())).jobs
    await settling.settle(session, NOW, [Outcome.completed(record, "{}") for record in taken])


async def renew(session: Session) -> None:
    renewed = await settling.renew(session, NOW, beats(live(0, 1, 2)), timedelta(seconds=30))
    assert len(renewed.held) == 10


async def insert(session: Session) -> None:
    held = f"key-{live(6)[0]}"
    await inserting.insert(session, NOW, [job(n) for n in range(10)])
    await inserting.insert(session, NOW, [job(n, unique_key=held) for n in range(10, 20)])
    await inserting.insert(session, NOW, [job(n, group="g7", group_max_size=10**6) for n in range(20, 30)])
    await inserting.insert(session, NOW, [job(30), job(31, parent=JobKey("q", "new-30"))])
    await inserting.insert(session, NOW, [job(32, parent=JobKey("q", f"j{live(7)[0]}"))])


async def release_keys(session: Session) -> None:
    await session.run(
        "release_expired_keys", queues=["q"] * 2, keys=[f"key-{n}" for n in live(6, most=2)], now=NOW
    )


async def advance(session: Session) -> None:
    moved = await advancing.advance(session, NOW, ["q", "other"], 10)
    assert (len(moved.due), len(moved.stalled)) == (10, 10)
    await advancing.advance(session, NOW - timedelta(days=1), ["q", "other"], 10)


async def settle_many(session: Session) -> None:
    ends = outcomes(live(0, 1, 2, most=500))
    assert await settling.settle_fast(session, NOW, ends) is not None
    await settling.settle(session, NOW, ends)


async def settle_many_by_slow_path(session: Session) -> None:
    ends = outcomes(live(0, 1, 2, most=500))
    await settling.settle(session, NOW, ends)


async def renew_many(session: Session) -> None:
    await settling.renew(session, NOW, beats(live(0, 1, 2, 3, most=500)), timedelta(seconds=30))


async def insert_many(session: Session) -> None:
    await inserting.insert(session, NOW, [job(n) for n in range(500)])
    await inserting.insert(session, NOW, [job(n) for n in range(500)])


async def claim_many_by_id(session: Session) -> None:
    many = frozenset(f"j{n}" for n in live(5, 6, 7, 8, most=500))
    assert len((await claiming.take(session, NOW, many, claim())).jobs) == 500


async def update_many(session: Session) -> None:
    where = Where(queue="q", ids=frozenset(f"j{n}" for n in live(0, 5, 6, 8, most=500)))
    await sets.update(session, NOW, where, Change(priority=3, payload="{}"))


async def delete_many(session: Session) -> None:
    where = Where(queue="q", ids=frozenset(f"j{n}" for n in live(0, 5, 6, 8, most=500)))
    assert await sets.delete(session, NOW, where, 500)


async def update(session: Session) -> None:
    ids = frozenset(f"j{n}" for n in live(0, 4, 5, 6, 9))
    for change in (
        Change(retry=True),
        Change(delay=timedelta(seconds=5)),
        Change(priority=3, payload="{}"),
        Change(cancel=True),
        Change(release_key=True),
    ):
        await sets.update(session, NOW, Where(queue="q", ids=ids), change)


async def delete(session: Session) -> None:
    ids = frozenset(f"j{n}" for n in live(5, 6, 8, 9))
    await sets.delete(session, NOW, Where(queue="q", ids=ids), 10)
    await sets.delete(session, NOW, Where(queue="q", expired=True), 10)
    await sets.delete(session, NOW, replace(unretained(timedelta(days=1)), ids=ids), 10)
    await sets.delete(session, NOW, Where(queue="q", states=frozenset({JobState.WAITING})), 10)


async def pause(session: Session) -> None:
    for what in (Pause(), Pause(name="work"), Pause(group="g9")):
        await pausing.pause(session, NOW, "q", what, timedelta(seconds=5))
        await pausing.paused(session, NOW, "q")
        await pausing.resume(session, "q", what)


def found(where: Where, order: Order = Order.ADDED) -> Callable[[Session], Awaitable[None]]:
    async def action(session: Session) -> None:
        page = await sets.find(session, NOW, where, limit=10, after=None, order=order)
        if page:
            await sets.find(session, NOW, where, limit=10, after=page[-1], order=order)

    return action


def unretained(age: timedelta) -> Where:
    states = frozenset({JobState.COMPLETED, JobState.CANCELLED})
    return Where(queue="q", states=states, unretained=True, older_than=age)


async def count_some(session: Session) -> None:
    counted = await sets.count(session, NOW, Where(queue="q"), by_group=False, most=100)
    assert max(counted.values()) == 100


def ids(*numbers: int) -> frozenset[str]:
    return frozenset(f"j{n}" for n in numbers)


RATE = Rate(max=100_000_000, per=timedelta(hours=1))
ACTIONS: dict[str, Callable[[Session], Awaitable[None]]] = {
    "count some": count_some,
    "claim, fast path": claim_fast,
    "claim": claimed(),
    "claim by names": claimed(names=frozenset({"work", "other"})),
    "claim newest": claimed(newest_first=True),
    "claim newest by names": claimed(newest_first=True, names=frozenset({"work", "other"})),
    "claim by ids": taken(ids(*live(5, 6, 7))),
    "claim limited": claimed(limit=Limit(active=1_000_000, rate=RATE)),
    "claim limited in groups": claimed(limit=Limit(rate=RATE), group_limit=Limit(active=30, rate=RATE)),
    "settle, fast path": settle_fast,
    "settle, slow path": settle_by_slow_path,
    "settle in groups": settle_in_groups,
    "renew": renew,
    "insert": insert,
    "release keys": release_keys,
    "advance": advance,
    "update": update,
    "delete": delete,
    "pause": pause,
    "found by id": found(Where(queue="q", ids=ids(*live(6)))),
    "found by id finished": found(Where(queue="q", ids=ids(*live(6))), Order.FINISHED),
    **{
        f"found by parent {order}": found(Where(parent=JobKey("q", f"j{live(7)[0]}")), order)
        for order in Order
    },
    "found by key": found(Where(queue="q", unique_key=f"key-{live(6)[0]}")),
    "found expired": found(Where(queue="q", expired=True)),
    "found unretained": found(unretained(NOW - datetime(2029, 12, 2, tzinfo=UTC)), Order.EARLIEST),
    "found none unretained": found(
        unretained(NOW - datetime(2029, 12, 1, tzinfo=UTC) - timedelta(seconds=25_000)), Order.EARLIEST
    ),
    # In the order of claims only waiting jobs have an index; others are sorted.
    **{f"found {order}": found(Where(queue="q"), order) for order in Order if order is not Order.CLAIM},
    **{
        f"found {state} {order}": found(Where(queue="q", states=frozenset({state})), order)
        for order in Order
        for state in JobState
        if order is not Order.CLAIM or state is JobState.WAITING
    },
}
#: These are for five hundred jobs.
MANY: dict[str, Callable[[Session], Awaitable[None]]] = {
    "settle many": settle_many,
    "settle many, slow path": settle_many_by_slow_path,
    "renew many": renew_many,
    "insert many": insert_many,
    "claim many by id": claim_many_by_id,
    "update many": update_many,
    "delete many": delete_many,
}
#: How many buffers a statement for ten jobs may look at, and how many rows it may compare.
MOST: Final = (2_000, 4_000)
#: Some say themselves how many they want.
MORE: Final = {"count_active": (250_000, 1_000_000)}


def costly(seen: Seen, *, tens: int) -> bool:
    buffers, compared = MORE.get(seen.statement, MOST)
    return seen.buffers > buffers * tens or seen.compared > compared * tens


def cases() -> Iterator[Any]:
    """Each action, planned in each way; pages of a state by two of the three, in turns, but with -m chaos."""
    pages = {f"found {state} {order}" for state in JobState for order in Order}
    for way in WAYS:
        for turn, name in enumerate((*ACTIONS, *MANY)):
            left_out = name in pages and way == ("not analysed", "analysed")[turn % 2]
            yield pytest.param(way, name, marks=[pytest.mark.chaos] if left_out else [])


@pytest.mark.parametrize(("session", "name"), [*cases()], indirect=["session"])
async def test_no_statement_costs_by_the_backlog(session: Explaining, name: str) -> None:
    await (ACTIONS | MANY)[name](session)

    tens = 50 if name in MANY else 1
    assert session.seen
    assert [str(seen) for seen in session.seen if costly(seen, tens=tens)] == []
