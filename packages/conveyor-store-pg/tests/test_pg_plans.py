"""No hot statement looks at more rows than it needs: 200,000 jobs are live here, and a million finished.

The store's own calls are made in a transaction that is rolled back. Every statement that they run is first
explained, by the generic plan that a prepared statement comes to and by the one made for its values.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg import ClientCursor, Connection
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer

from conveyor.core.jobs import JobKey, JobRecord, JobState, Lease
from conveyor.core.store import Beat, Change, Claim, Limit, Order, Outcome, Pause, Rate, Retention, Where
from conveyor.store.pg import PgStore, advancing, claiming, inserting, pausing, sets, settling, tidying
from conveyor.store.pg.connections import Connections, Step
from conveyor.store.pg.limits import rate_name
from conveyor.store.pg.statements import Row, Session, Statements
from conveyor.store.pg.testing import get_server

T = TypeVar("T")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
LARGE = {"conveyor_jobs", "conveyor_groups", "conveyor_lanes", "conveyor_starts", "conveyor_tombstones"}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_plans")]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = get_server(tmp_path_factory.mktemp("plans"))
    with server.database("conveyor_plans") as url:
        yield url


@pytest.fixture(scope="module")
def filled(url: str) -> str:
    async def create() -> None:
        async with PgStore(url, notify=False):
            pass

    asyncio.run(create())
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((Path(__file__).parent / "pg_plans.sql").read_bytes())
        connection.execute("vacuum analyze")
    return url


@pytest.fixture
def session(filled: str) -> Iterator[Explaining]:
    with psycopg.connect(filled) as connection:
        yield Explaining(connection)
        connection.rollback()


# ------------------------------------------------------------------ plans


@dataclass(frozen=True)
class Seen:
    """What one statement did by one plan."""

    statement: str
    generic: bool
    buffers: int
    #: Of each large table: the rows that were looked at.
    rows: Mapping[str, float]
    scanned: frozenset[str]
    indexes: frozenset[str]

    def __str__(self) -> str:
        rows = " ".join(f"{table}={rows:.0f}" for table, rows in self.rows.items())
        plan = "generic" if self.generic else "custom"
        return (
            f"{self.statement} ({plan}): {self.buffers} buffers, {rows}; scans {sorted(self.scanned)}; "
            f"by {sorted(self.indexes)}"
        )


class Explaining(Session):
    """A session that explains every statement before it runs it."""

    def __init__(self, connection: Connection[Any]) -> None:
        self.connection = connection
        self.statements = Statements("public")
        self.seen: list[Seen] = []

    async def ask(self, name: str, /, **values: Any) -> list[Row]:
        self._explain(name, self.statements[name], values)
        return self.connection.execute(self.statements[name], values).fetchall()

    async def run(self, name: str, /, **values: Any) -> int:
        self._explain(name, self.statements[name], values)
        return self.connection.execute(self.statements[name], values).rowcount

    async def query(self, statement: bytes, values: Mapping[str, Any]) -> list[Row]:
        name = "entries_of_set" if b"for update" in statement else "set"
        self._explain(name, statement, values)
        return self.connection.execute(statement, values).fetchall()

    def _explain(self, name: str, statement: bytes, values: Mapping[str, Any]) -> None:
        query = PostgresQuery(Transformer(self.connection))
        query.convert(statement, values)
        types = [self._type(oid) for oid in query.types]
        head = f"({', '.join(types)})" if types else ""
        marks = ", ".join(["%s"] * len(types))
        # the values, as often as the statement names them, in the order of its numbers
        names = list(dict.fromkeys(query._order or ()))
        call = f"execute explained({marks})" if types else "execute explained"
        for generic in (True, False):
            self.connection.execute(
                f"set local plan_cache_mode = force_{'generic' if generic else 'custom'}_plan"
            )
            self.connection.execute("savepoint explaining")
            self.connection.execute(
                b"prepare explained" + head.encode() + b" as " + query.query, prepare=False
            )
            cursor = ClientCursor(self.connection)
            cursor.execute(
                f"explain (analyze, buffers, timing off, format json) {call}".encode(),
                [values[each] for each in names],
            )
            row = cursor.fetchone()
            assert row is not None
            self.seen.append(_seen(name, row[0][0]["Plan"], generic=generic))
            self.connection.execute("rollback to savepoint explaining")
            self.connection.execute("deallocate explained")

    def _type(self, oid: int) -> str:
        info = self.connection.adapters.types.get(oid)
        if info is None:
            return "unknown"
        return f"{info.regtype}[]" if info.array_oid == oid else info.regtype


class OneSession(Connections):
    """Runs every step in the same session."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def call(self, step: Step[T], **_: Any) -> T:
        return await step(self.session)


def _seen(name: str, plan: Mapping[str, Any], *, generic: bool) -> Seen:
    rows: dict[str, float] = {}
    scanned: set[str] = set()
    indexes: set[str] = set()
    nodes = [plan]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", ())
        if "Index Name" in node:
            indexes.add(node["Index Name"])
        table = node.get("Relation Name")
        if table not in LARGE or "Scan" not in node["Node Type"]:
            continue
        read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        read += node.get("Rows Removed by Index Recheck", 0)
        rows[table] = rows.get(table, 0) + read * node["Actual Loops"]
        if node["Node Type"] == "Seq Scan":
            scanned.add(table)
    buffers = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return Seen(name, generic, buffers, rows, frozenset(scanned), frozenset(indexes))


# ------------------------------------------------------------------ what is done


def claim(queue: str, count: int = 10, **fields: Any) -> Claim:
    return Claim(queue=queue, count=count, token="token", lease=timedelta(seconds=30), worker="w", **fields)


def job(n: int, queue: str, **fields: Any) -> JobRecord:
    return JobRecord(queue=queue, id=f"new-{n}", name="name-1", **fields)


async def claim_with_care(session: Session, queue: str, **fields: Any) -> None:
    claimed = await claiming.claim(session, NOW, claim(queue, **fields))
    assert len(claimed.jobs) == 10


async def claim_at_once(session: Session) -> None:
    claimed = await claiming.claim_at_once(session, NOW, claim("plain"))
    assert claimed is not None
    assert len(claimed.jobs) == 10


async def claim_nothing(session: Session) -> None:
    await claiming.claim_at_once(session, NOW, claim("empty"))
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
    moved, _ = await advancing.advance(session, later, ["plain", "grouped"], 10)
    assert (len(moved.due), len(moved.stalled)) == (10, 10)


async def tidy(session: Session) -> None:
    await tidying.tidy(OneSession(session), ["plain", "grouped", "empty"], NOW)
    await tidying.tidy(OneSession(session), ["plain", "grouped"], NOW + timedelta(days=32))


async def let_groups_go_on(session: Session) -> None:
    request = claim("grouped", group_limit=Limit(rate=RATE))
    await tidying.let_groups_go_on(OneSession(session), request, NOW)


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
        await claim_with_care(session, queue, **fields)

    return action


NAMES = frozenset({"name-1", "name-3", "name-8"})
RATE = Rate(max=100_000_000, per=timedelta(hours=1))
ACTIONS: dict[str, Callable[[Session], Awaitable[None]]] = {
    "claim at once": claim_at_once,
    "claim nothing": claim_nothing,
    "claim by names": claimed("plain", names=NAMES),
    "claim newest": claimed("plain", newest_first=True),
    "claim newest by names": claimed("plain", newest_first=True, names=NAMES),
    "claim by ids": claimed("plain", ids=frozenset(f"j{n}" for n in range(1_000_001, 1_000_031, 2))),
    "claim by ids, in groups": claimed(
        "grouped", ids=frozenset(f"j{n}" for n in range(1_000_000, 1_000_030, 2))
    ),
    "claim limited": claimed("plain", limit=Limit(active=1_000_000, rate=RATE)),
    "claim by turns": claimed("grouped"),
    "claim by turns, newest": claimed("grouped", newest_first=True),
    "claim by turns, names": claimed("grouped", names=NAMES),
    "claim by turns, limited": claimed(
        "grouped", limit=Limit(active=1_000_000, rate=RATE), group_limit=Limit(active=30, rate=RATE)
    ),
    "settle": lambda session: settle(session, "plain"),
    "settle, in groups": lambda session: settle(session, "grouped"),
    "renew": renew,
    "insert": insert,
    "advance": advance,
    "tidy": tidy,
    "let groups go on": let_groups_go_on,
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
    "found by name": found(
        Where(queue="plain", names=NAMES, states=frozenset({JobState.WAITING})), Order.CLAIM
    ),
    "found by group": found(
        Where(queue="grouped", group="g7", states=frozenset({JobState.WAITING})), Order.CLAIM
    ),
    "found expired": found(Where(queue="plain", expired=True)),
    "found expired by parent": found(Where(parent=JobKey("plain", "parent-4001"), expired=True)),
    "found expired by id": found(Where(queue="plain", ids=frozenset({"j600001", "j600005"}), expired=True)),
}


#: How many rows and buffers a statement for ten jobs may look at; some say themselves how many they want.
MOST = (600, 1_200)
MORE = {
    # as many as the limit allows to be active
    "active": (5_000, 1_200),
    # what need not be remembered any more, ten thousand at a time of each queue and kind
    "tidy": (20_000, 45_000),
    "forget_starts": (40_000, 90_000),
}
#: Each index, and who needs it.
INDEXES = {
    "conveyor_jobs_id": "insert",
    "conveyor_jobs_key": "found by key",
    "conveyor_jobs_waiting": "claim at once",
    "conveyor_jobs_waiting_name": "claim by names",
    "conveyor_jobs_waiting_lane": "claim by turns",
    "conveyor_jobs_run_at": "advance",
    "conveyor_jobs_lease_until": "advance",
    "conveyor_jobs_parent": "found by parent",
    "conveyor_jobs_added": "found waiting added",
    "conveyor_jobs_finished": "found completed finished",
    "conveyor_jobs_expires_at": "found expired",
    "conveyor_jobs_keep_count": "found expired",
    "conveyor_tombstones_at": "tidy",
    "conveyor_pauses_until": "tidy",
    "conveyor_starts_at": "tidy",
    "conveyor_groups_known": "claim by turns",
    "conveyor_groups_parked": "claim by turns, limited",
    "conveyor_groups_waiting": "tidy",
    "conveyor_groups_idle": "tidy",
    "conveyor_lanes_served": "claim by turns",
    "conveyor_lanes_fresh": "claim by turns",
    "conveyor_lanes_fresh_newest": "claim by turns, newest",
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
    "parked": f"parked_for = '{rate_name(RATE)}'",
}


@pytest.mark.parametrize("group", PASSED_OVER)
async def test_a_claim_by_turns_does_not_look_at_lanes_that_it_passes_over(
    session: Explaining, group: str
) -> None:
    for table in ("conveyor_groups", "conveyor_lanes"):
        change = PASSED_OVER[group]
        if table == "conveyor_groups" and group == "parked":
            change += ", parked_until = '2030-01-01 00:30+00'"
        session.connection.execute(
            f"update {table} set {change} where queue = 'grouped' and substr(grp, 2) > '5'".encode()  # noqa: S608
        )

    await claim_with_care(session, "grouped", group_limit=Limit(active=3, rate=RATE))

    lanes = [seen for seen in session.seen if seen.statement.startswith("look_by_turns")]
    assert lanes
    # a page of each name, of the groups that have had a turn and of those that have not
    assert [str(seen) for seen in lanes if seen.rows["conveyor_lanes"] > 500] == []
    gates = [seen for seen in session.seen if seen.statement == "gate"]
    assert gates
    assert [str(seen) for seen in gates if seen.rows["conveyor_groups"] > 20] == []
