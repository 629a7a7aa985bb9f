"""No hot statement looks at more rows than it needs: 200,000 jobs are live here, and 100,000 finished.

The store's own calls are made in a transaction that is rolled back. Every statement that they run is first
explained, by the generic plan that a prepared statement comes to and by the one made for its values.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

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
from conveyor.store.pg import PgStore, advancing, claiming, housekeeping, inserting, pausing, sets, settling
from conveyor.store.pg.connections import Connections, Step
from conveyor.store.pg.statements import Session
from conveyor.store.sql import rate_name
from pg_explaining import Explaining, Seen

T = TypeVar("T")
NOW = datetime(2030, 1, 1, tzinfo=UTC)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_plans")]
#: The table of jobs, as long as any page of it is not known to be visible to all.
UNMARKED = "select from pg_class where relname = 'conveyor_jobs' and relallvisible < relpages"


@pytest.fixture(scope="module")
def url(module_database: str) -> str:
    return module_database


@pytest.fixture(scope="module")
def filled(url: str) -> str:
    async def create() -> None:
        async with PgStore(url, notify=False):
            pass

    asyncio.run(create())
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((Path(__file__).parent / "pg_plans.sql").read_bytes())
        # One pass may leave pages out that are visible to all; counting then reads the rows as well.
        for _ in range(10):
            connection.execute("vacuum analyze")
            if not connection.execute(UNMARKED).fetchall():
                break
    return url


@pytest.fixture
def session(filled: str) -> Iterator[Explaining]:
    with psycopg.connect(filled) as connection:
        yield Explaining(connection)
        connection.rollback()


class OneSession(Connections):
    """Runs every step in the same session."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def call(self, step: Step[T], **_: Any) -> T:
        return await step(self.session)


# ------------------------------------------------------------------ what is done


def claim(queue: str, count: int = 10, **fields: Any) -> Claim:
    given: dict[str, Any] = {
        "token": "token",
        "lease": timedelta(seconds=30),
        "worker": "w",
        "stalled": Stalled.LEFT,
    }
    return Claim(queue=queue, count=count, **(given | fields))


def job(n: int, queue: str, **fields: Any) -> JobRecord:
    return JobRecord(queue=queue, id=f"new-{n}", name="name-1", **fields)


async def claim_by_slow_path(session: Session, queue: str, **fields: Any) -> None:
    claimed = await claiming.claim(session, NOW, claim(queue, **fields))
    assert len(claimed.jobs) == 10


def taken(queue: str, ids: Sequence[str]) -> Callable[[Session], Awaitable[None]]:
    async def action(session: Session) -> None:
        claimed = await claiming.take(session, NOW, ids, claim(queue))
        assert len(claimed.jobs) > 9  # the others are active

    return action


async def claim_fast(session: Session) -> None:
    claimed = await claiming.claim_fast(session, NOW, claim("plain"))
    assert claimed is not None
    assert len(claimed.jobs) == 10


async def claim_nothing(session: Session) -> None:
    await claiming.claim_fast(session, NOW, claim("empty"))
    await claiming.claim(session, NOW, claim("empty", limit=Limit(active=1)))


async def settle(session: Session, queue: str) -> None:
    """Complete, retry, and give jobs back, those of a group and with a parent too."""
    taken = (await claiming.claim(session, NOW, claim(queue, 20))).jobs
    ends = [
        Outcome.completed(record, "{}", retention=Retention(age=timedelta(0)) if n % 3 else None)
        for n, record in enumerate(taken[:10])
    ]
    back = [Outcome.given_back(record) for record in taken[10:]]
    settled = await settling.settle(session, NOW, [*ends, *back])
    assert len(settled.applied) == 20
    await settling.settle(session, NOW, ends)  # again, and those that are gone are known


async def renew(session: Session) -> None:
    ids = [n for n in range(1_000_002, 1_001_000) if n // 2 % 10 == 9 and n % 40 < 20]
    beats = [
        Beat(lease=Lease("plain" if n % 2 else "grouped", f"j{n}", f"t{n}"), report="{}", payload="{}")
        for n in ids
    ]
    renewed = await settling.renew(session, NOW, beats[:10], timedelta(seconds=30))
    assert len(renewed.held) == 10


async def insert(session: Session) -> None:
    await inserting.insert(session, NOW, [job(n, "plain") for n in range(10)])
    await inserting.insert(session, NOW, [job(n, "plain", unique_key="key-1000007") for n in range(10, 20)])
    await inserting.insert(
        session, NOW, [job(n, "grouped", group="g7", group_max_size=10**6) for n in range(10)]
    )
    await inserting.insert(
        session, NOW, [job(20, "plain"), job(21, "plain", parent=JobKey("plain", "new-20"))]
    )
    waiting = next(n for n in range(1_000_001, 1_100_000, 2) if n // 2 % 10 == 9 and n % 40 >= 20)
    await inserting.insert(session, NOW, [job(22, "plain", parent=JobKey("plain", f"j{waiting}"))])


async def advance(session: Session) -> None:
    later = NOW + timedelta(days=32)
    await advancing.advance(session, NOW, ["plain", "grouped", "empty"], 100)
    moved = await advancing.advance(session, later, ["plain", "grouped"], 10)
    assert (len(moved.due), len(moved.stalled)) == (10, 10)


async def forget_ended(session: Session) -> None:
    await housekeeping.forget_ended(OneSession(session), ["plain", "grouped", "empty"], NOW)
    await housekeeping.forget_ended(OneSession(session), ["plain", "grouped"], NOW + timedelta(days=32))


async def resume_groups(session: Session) -> None:
    request = claim("grouped", group_limit=Limit(rate=RATE))
    await housekeeping.resume_groups(OneSession(session), request, NOW)


async def update(session: Session) -> None:
    ids = frozenset({"j1000001", "j1", "j3", "j7", "j9"})
    for change in (Change(retry=True), Change(delay=timedelta(seconds=5)), Change(priority=3, payload="{}")):
        await sets.update(session, NOW, Where(queue="plain", ids=ids), change)
    await sets.delete(session, NOW, Where(queue="plain", ids=ids), 10)


async def pause(session: Session) -> None:
    for what in (Pause(), Pause(name="name-1"), Pause(group="g9")):
        await pausing.pause(session, NOW, "grouped", what, timedelta(seconds=5))
        await pausing.paused(session, NOW, "grouped")
        await pausing.resume(session, "grouped", what)


def found(where: Where, order: Order = Order.ADDED) -> Callable[[Session], Awaitable[None]]:
    async def action(session: Session) -> None:
        page = await sets.find(session, NOW, where, limit=10, after=None, order=order)
        if page:
            await sets.find(session, NOW, where, limit=10, after=page[-1], order=order)

    return action


def claimed(queue: str, **fields: Any) -> Callable[[Session], Awaitable[None]]:
    async def action(session: Session) -> None:
        await claim_by_slow_path(session, queue, **fields)

    return action


NAMES = frozenset({"name-1", "name-3", "name-8"})
RATE = Rate(max=100_000_000, per=timedelta(hours=1))
ACTIONS: dict[str, Callable[[Session], Awaitable[None]]] = {
    "claim, fast path": claim_fast,
    "claim nothing": claim_nothing,
    "claim by names": claimed("plain", names=NAMES),
    "claim newest": claimed("plain", newest_first=True),
    "claim newest by names": claimed("plain", newest_first=True, names=NAMES),
    "claim by ids": taken("plain", [f"j{n}" for n in range(1_000_001, 1_000_031, 2)]),
    "claim by ids, in groups": taken("grouped", [f"j{n}" for n in range(1_000_000, 1_000_030, 2)]),
    "claim limited": claimed("plain", limit=Limit(active=1_000_000, rate=RATE)),
    "claim by fair share": claimed("grouped"),
    "claim by fair share, newest": claimed("grouped", newest_first=True),
    "claim by fair share, names": claimed("grouped", names=NAMES),
    "claim by fair share, limited": claimed(
        "grouped", limit=Limit(active=1_000_000, rate=RATE), group_limit=Limit(active=30, rate=RATE)
    ),
    "settle": lambda session: settle(session, "plain"),
    "settle, in groups": lambda session: settle(session, "grouped"),
    "renew": renew,
    "insert": insert,
    "advance": advance,
    "forget ended": forget_ended,
    "resume groups": resume_groups,
    "update": update,
    "pause": pause,
    "found by parent": found(Where(parent=JobKey("plain", "parent-5001"))),
    "found by key": found(Where(queue="plain", unique_key="key-1000007")),
    **{f"found {order}": found(Where(queue="grouped"), order) for order in Order if order is not Order.CLAIM},
    # In the order of claims only waiting jobs have an index; others are sorted.
    **{
        f"found {state} {order}": found(Where(queue="plain", states=frozenset({state})), order)
        for order in Order
        for state in JobState
        if order is not Order.CLAIM or state is JobState.WAITING
    },
    "found waiting claim in groups": found(
        Where(queue="grouped", states=frozenset({JobState.WAITING})), Order.CLAIM
    ),
    "found by name": found(
        Where(queue="plain", names=NAMES, states=frozenset({JobState.WAITING})), Order.CLAIM
    ),
    **{
        f"found by group {order}": found(
            Where(queue="grouped", group="g7", states=frozenset({JobState.WAITING})), order
        )
        for order in Order
    },
    "found expired": found(Where(queue="plain", expired=True)),
    "found unretained": found(
        Where(
            queue="plain",
            states=frozenset({JobState.COMPLETED}),
            unretained=True,
            older_than=timedelta(days=1),
        ),
        Order.EARLIEST,
    ),
    "found expired by parent": found(Where(parent=JobKey("plain", "parent-401"), expired=True)),
    "found expired by id": found(Where(queue="plain", ids=frozenset({"j60001", "j60005"}), expired=True)),
}


#: How many rows and buffers a statement for ten jobs may look at; some say themselves how many they want.
MOST = (600, 1_200)
MORE = {
    # some hundreds have expired, and are read to choose ten; a set is chosen and read by one statement
    "set": (800, 1_200),
    # a hundred sub-queues are written
    "copy_groups_to_subqueues": (600, 2_000),
    # as many as the limit allows to be active
    "count_active": (5_000, 1_200),
    # what need not be remembered any more, ten thousand at a time of each queue and kind
    "forget_ended": (20_000, 45_000),
    "forget_starts": (40_000, 90_000),
}
#: Each index, and who needs it.
INDEXES = {
    "conveyor_jobs_id": "insert",
    "conveyor_jobs_key": "found by key",
    "conveyor_jobs_waiting": "claim, fast path",
    "conveyor_jobs_waiting_name": "claim by names",
    "conveyor_jobs_waiting_subqueue": "claim by fair share",
    "conveyor_jobs_waiting_grouped": "found waiting claim in groups",
    "conveyor_jobs_run_at": "advance",
    "conveyor_jobs_lease_until": "advance",
    "conveyor_jobs_parent": "found by parent",
    "conveyor_jobs_added": "found waiting added",
    "conveyor_jobs_finished": "found completed finished",
    "conveyor_jobs_expires_at": "found expired",
    "conveyor_jobs_keep_count": "found expired",
    "conveyor_tombstones_at": "forget ended",
    "conveyor_pauses_resumes_at": "forget ended",
    "conveyor_starts_at": "forget ended",
    "conveyor_groups_known": "claim by fair share",
    "conveyor_groups_throttled": "claim by fair share, limited",
    "conveyor_groups_waiting": "forget ended",
    "conveyor_groups_idle": "forget ended",
    "conveyor_subqueues_served": "claim by fair share",
    "conveyor_subqueues_never_served": "claim by fair share",
    "conveyor_subqueues_never_served_newest": "claim by fair share, newest",
}


def costly(seen: Seen) -> bool:
    """Whether a statement looked at more than it needs."""
    rows, buffers = MORE.get(seen.statement, MOST)
    return bool(seen.scanned) or seen.buffers > buffers or max(seen.rows.values(), default=0) > rows


@pytest.mark.parametrize("name", ACTIONS)
async def test_no_statement_looks_at_more_than_it_needs(session: Explaining, name: str) -> None:
    await ACTIONS[name](session)

    assert session.seen
    assert [str(seen) for seen in session.seen if costly(seen)] == []


@pytest.mark.parametrize("index", INDEXES)
async def test_an_index_is_used(session: Explaining, index: str) -> None:
    await ACTIONS[INDEXES[index]](session)

    assert index in {used for seen in session.seen for used in seen.indexes}


def test_there_is_no_index_that_nobody_needs(session: Explaining) -> None:
    rows = session.connection.execute(
        "select indexname from pg_indexes where schemaname = 'public' and indexname like 'conveyor%'"
    ).fetchall()

    found = {name for (name,) in rows if not name.endswith("_pkey") and "listeners" not in name}
    assert found == set(INDEXES)


async def counted(session: Explaining, where: Where) -> list[Seen]:
    await sets.count(session, NOW, where, by_group=False)
    return session.seen


async def test_counting_reads_indexes_only(session: Explaining) -> None:
    seen = await counted(session, Where(queue="plain"))

    assert [str(each) for each in seen if each.scanned or each.buffers > 15_000] == []


PASSED_OVER = {
    "saturated": "active = 5",
    "paused": "paused = true",
    "throttled": f"throttled_for = '{rate_name(RATE)}'",
}


@pytest.mark.parametrize("group", PASSED_OVER)
async def test_a_claim_by_fair_share_does_not_look_at_subqueues_that_it_passes_over(
    session: Explaining, group: str
) -> None:
    for table in ("conveyor_groups", "conveyor_subqueues"):
        change = PASSED_OVER[group]
        if table == "conveyor_groups" and group == "throttled":
            change += ", throttled_until = '2030-01-01 00:30+00'"
        session.connection.execute(
            f"update {table} set {change} where queue = 'grouped' and substr(grp, 2) > '5'".encode()  # noqa: S608
        )

    await claim_by_slow_path(session, "grouped", group_limit=Limit(active=3, rate=RATE))

    candidates = [seen for seen in session.seen if seen.statement.startswith("find_candidates_in_groups")]
    assert candidates
    # a page of each name, of the groups that were served before and of those that never were
    assert [str(seen) for seen in candidates if seen.rows["conveyor_subqueues"] > 500] == []
    preconditions = [seen for seen in session.seen if seen.statement == "claim_preconditions"]
    assert preconditions
    assert [str(seen) for seen in preconditions if seen.rows["conveyor_groups"] > 20] == []
