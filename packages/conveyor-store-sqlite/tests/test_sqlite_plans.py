"""No hot statement looks at more rows than it needs, whatever else is in the file."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from conveyor.core.store import Claim, JobKey, JobRecord, JobState, Limit, Order, Outcome, Pause, Rate, Where
from conveyor.store.sqlite import SqliteStore, where
from conveyor.store.sqlite.connections import open_writer
from conveyor.store.sqlite.statements import of_rows, statement
from conveyor.store.sqlite.threads import Priority
from conveyor.store.sqlite.where import in_subqueue

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
FEW, MANY = 1_000, 20_000


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    store = SqliteStore(tmp_path / "jobs.db")
    db = open_writer(store.path, store._options)
    yield db
    db.close()


def plan(db: sqlite3.Connection, sql: str) -> str:
    """How SQLite runs a statement, in one line for each step."""
    unknown = dict.fromkeys(_PARAMETERS, 1) | {"seqs": "[1]", "ids": "[1]", "keys": "[1]", "jobs": "[1]"}
    unknown |= {
        "leases": "[1]",
        "classes": "[1]",
        "groups": "[1]",
        "parents": "[1]",
        "targets": "[1]",
    }
    parameters: Any = [1] * sql.count("?") if "?" in sql else unknown
    return "\n".join(row[3] for row in db.execute("explain query plan " + sql, parameters))


_PARAMETERS = (
    *(
        "queue",
        "name",
        "group",
        "sort_key",
        "tie_break",
        "before",
        "count",
        "now",
        "expires_at",
        "lease_until",
        "resumes_at",
        "worker",
        "token",
        "limit",
    ),
    *("rate", "latest", "kind", "since", "max", "horizon", "key", "id", "second", "picks", "after", "handle"),
    *("longest", "target", "started", "ungrouped_last_served"),
)

_ID = "conveyor_jobs_id (queue=? AND id=?)"
UNRETAINED = Where(
    queue="q", states=frozenset({JobState.FAILED}), unretained=True, older_than=timedelta(days=14)
)
_NUMBER = "INTEGER PRIMARY KEY (rowid=?)"
#: Each statement that runs for every claim, settle, renewal, insert or advance, and how it finds its rows.
HOT = {
    "find_existing_jobs": [_ID, "conveyor_jobs_key (queue=? AND unique_key=?)"],
    "release_expired_keys": ["conveyor_jobs_key (queue=? AND unique_key=?)"],
    "find_waiting_parents": [_ID],
    "add_children": [_ID],
    "find_by_id": [_ID],
    "lease": [_NUMBER],
    "first_stalled": [_NUMBER],
    "read_records": [_NUMBER],
    "read_rows": [_ID],
    "read_rows_by_seq": [_NUMBER],
    "find_held_leases": [_ID],
    "renew": [_NUMBER],
    "delete_jobs": [_NUMBER],
    "find_created": ["INTEGER PRIMARY KEY (rowid>?)"],
    "count_active": ["COVERING INDEX conveyor_jobs_all_active (queue=? AND state=?)"],
    "find_due": ["conveyor_jobs_run_at (queue=? AND run_at<?)"],
    "find_expired_leases": ["conveyor_jobs_lease_until (queue=? AND lease_until<?)"],
    "make_waiting": [_NUMBER],
    "reclaim_expired_leases": [_NUMBER],
    "next_deadline": [
        "COVERING INDEX conveyor_jobs_run_at (queue=?)",
        "COVERING INDEX conveyor_jobs_lease_until (queue=?)",
    ],
    "ungrouped_names": ["conveyor_jobs_waiting_name (queue=? AND name>?)"],
    "find_key_holder": ["conveyor_jobs_key (queue=? AND unique_key=?)"],
    "count_unreleased": ["conveyor_jobs_parent (parent_queue=? AND parent_id=?)"],
    "claim_wait": [
        "COVERING INDEX conveyor_jobs_waiting",
        "COVERING INDEX conveyor_jobs_run_at (queue=?)",
        "conveyor_groups_waiting (queue=?)",
        "conveyor_groups_throttled (queue=?)",
        "conveyor_pauses_resumes_at (queue=? AND kind=? AND resumes_at>?)",
    ],
    "subqueue_names": ["conveyor_subqueues_never_served", "conveyor_subqueues_served"],
    "subqueue_classes_never_served": [
        "never_served (queue=? AND name=? AND throttled_for=? AND active>?)",
        "never_served (queue=? AND name=? AND throttled_for>?)",
        "never_served (queue=? AND name>?)",
    ],
    "subqueue_classes_served": [
        "conveyor_subqueues_served (queue=? AND name=? AND throttled_for=? AND active>?)",
        "conveyor_subqueues_served (queue=? AND name=? AND throttled_for>?)",
        "conveyor_subqueues_served (queue=? AND name>?)",
    ],
    "subqueues_never_served": [
        "never_served (queue=? AND name=? AND throttled_for=? AND active=? AND (sort_key,tie_break)>(?,?))"
    ],
    "subqueues_never_served_newest": [
        "served_newest (queue=? AND name=? AND throttled_for=? AND active=? AND (sort_key,newest)>(?,?))"
    ],
    "subqueues_served": [
        "_served (queue=? AND name=? AND throttled_for=? AND active=? AND (sort_key,last_served)>(?,?))"
    ],
    "unthrottle_groups": [
        "conveyor_groups_throttled (queue=? AND throttled_until<?)",
        "conveyor_groups_throttled (queue=? AND throttled_until>?)",
    ],
    "end_group_pauses": ["conveyor_pauses_resumes_at (queue=? AND kind=? AND resumes_at<?)"],
    "forget_pauses": ["(queue=?"],
    "forget_groups": [
        "conveyor_groups_idle (queue=? AND known=?)",
        "conveyor_groups_idle (queue=? AND known=? AND last_served<?)",
        "conveyor_groups_waiting (queue=?)",
        "COVERING INDEX conveyor_jobs_waiting",
    ],
    "forget_starts": ["conveyor_starts_at (queue=? AND kind=? AND at<?)"],
    "forget_tombstones": ["conveyor_tombstones_at (queue=? AND at<?)"],
    "count_starts": ["PRIMARY KEY (queue=? AND kind=? AND target=? AND at>? AND at<?)"],
    "add_starts": ["PRIMARY KEY (queue=? AND kind=? AND target=? AND at<?)"],
    "shift_later_starts": ["(queue=? AND kind=? AND at>?)"],
    "find_tombstones": ["PRIMARY KEY (queue=? AND id=? AND token=?)"],
    "claim_preconditions": [
        "PRIMARY KEY (queue=? AND kind=?)",
        "conveyor_queues USING PRIMARY KEY (queue=?)",
    ],
    "group_sizes": ["PRIMARY KEY (queue=? AND grp=?)"],
    "read_events": ["INTEGER PRIMARY KEY (rowid>?)"],
    "forget_picks": ["conveyor_groups_known (queue=?)"],
    "delete_old_events": ["conveyor_events_at (at<?)"],
}


@pytest.mark.parametrize("name", HOT)
def test_a_hot_statement_goes_by_its_indexes(db: sqlite3.Connection, name: str) -> None:
    found = plan(db, statement(name))

    for index in HOT[name]:
        assert index in found, found
    for table in ("j", "l", "s", "i", "g", "n", "conveyor"):
        assert f"SCAN {table}\n" not in found.replace("_", "\n") + "\n", found


@pytest.mark.parametrize("name", ["save_jobs", "write_documents", "rewrite_jobs"])
def test_rows_are_written_by_their_number(db: sqlite3.Connection, name: str) -> None:
    assert "SEARCH conveyor_jobs USING INTEGER PRIMARY KEY" in plan(db, of_rows(name, 4))


@pytest.mark.parametrize(
    ("kind", "index"),
    [
        ("ungrouped", "conveyor_jobs_waiting"),
        ("named", "conveyor_jobs_waiting_name"),
        ("grouped", "conveyor_jobs_waiting_subqueue"),
    ],
)
@pytest.mark.parametrize("name", ["jobs_oldest", "jobs_newest", "next_sort_key"])
def test_a_claim_reads_its_subqueue_in_order_from_one_index(
    db: sqlite3.Connection, name: str, kind: str, index: str
) -> None:
    found = plan(db, in_subqueue(name, kind))

    assert f"USING COVERING INDEX {index} " in found
    assert "TEMP B-TREE" not in found
    assert "SCAN conveyor" not in found


def test_the_triggers_of_groups_go_by_indexes(db: sqlite3.Connection) -> None:
    # a plan does not show what triggers do, so their statements are counted instead
    def steps(subqueues: int) -> int:
        db.execute("delete from conveyor_jobs")
        for n in range(subqueues):
            _insert(db, f"job-{n}", f"group-{n}")
        return _steps(
            db,
            lambda: db.execute(
                "update conveyor_jobs set state = 'active' where queue = 'q' and id = 'job-0'"
            ),
        )

    few, many = steps(10), steps(3_000)

    assert many < 2 * few


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        (Where(queue="q", ids=frozenset("a")), _ID),
        (Where(queue="q", ids=frozenset("a"), states=frozenset({JobState.FAILED})), _ID),
        (Where(queue="q", unique_key="k"), "conveyor_jobs_key (queue=? AND unique_key=?)"),
        (Where(parent=JobKey("q", "a")), "conveyor_jobs_parent (parent_queue=? AND parent_id=?)"),
        (Where(queue="q", expired=True), "conveyor_jobs_expires_at"),
        (Where(queue="q", expired=True), "conveyor_jobs_keep_count"),
        (
            UNRETAINED,
            "conveyor_jobs_finished (queue=? AND state=? AND <expr>=? AND finished_at>? AND finished_at<?)",
        ),
        (Where(queue="q", group="g"), "conveyor_jobs_group (queue=? AND grp=?)"),
        (Where(queue="q", group="g", states=frozenset({JobState.WAITING})), "conveyor_jobs_waiting_subqueue"),
    ],
)
def test_a_set_that_an_index_knows_is_found_by_it(db: sqlite3.Connection, asked: Where, index: str) -> None:
    seen: list[str] = []
    db.set_trace_callback(seen.append)
    where.seqs(db, asked, START, limit=10, order=Order.EARLIEST if asked.unretained else Order.ADDED)
    db.set_trace_callback(None)

    assert any(index in "\n".join(r[3] for r in db.execute("explain query plan " + sql)) for sql in seen)


@pytest.mark.parametrize(
    "asked",
    [
        Where(parent=JobKey("q", "job-0"), expired=True),
        Where(queue="q", ids=frozenset({"job-0"}), expired=True),
    ],
)
def test_a_few_jobs_that_are_over_are_found_without_a_look_at_all(
    db: sqlite3.Connection, asked: Where
) -> None:
    ids = itertools.count()

    def steps(jobs: int) -> int:
        """The cost once there are so many more."""
        for n in itertools.islice(ids, jobs):
            _insert(db, f"job-{n}", f"group-{n}")
        over = ("state = 'completed', finished_at = '2026'", "expires_at = '2026', keep_count = 1")
        db.execute(f"update conveyor_jobs set {', '.join(over)}, parent_queue = 'q', parent_id = id")  # noqa: S608
        assert where.seqs(db, asked, START, limit=10) == [1]
        return _steps(db, lambda: where.seqs(db, asked, START, limit=10))

    few, many = steps(10), steps(1_000)

    assert many < 2 * few


def test_counting_reads_indexes_only(db: sqlite3.Connection) -> None:
    seen: list[str] = []
    db.set_trace_callback(seen.append)
    where.counts(db, Where(queue="q"), START, by_group=False)
    db.set_trace_callback(None)

    plans = ["\n".join(r[3] for r in db.execute("explain query plan " + sql)) for sql in seen]
    assert len(plans) == 8
    assert [found for found in plans if "USING COVERING INDEX" not in found] == []


# ------------------------------------------------------------------ cost


def _steps(db: sqlite3.Connection, action: Callable[[], object]) -> int:
    """How many instructions of SQLite's machine an action takes, in tens."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    db.set_progress_handler(tick, 10)
    try:
        action()
    finally:
        db.set_progress_handler(None, 0)
    return count


def _insert(db: sqlite3.Connection, id: str, group: str) -> None:
    db.execute(
        "insert into conveyor_jobs (queue, id, name, payload, options, report, priority, lifo, grp, state, "
        "sort_key, tie_break, holds_key, pending, released, created_at) "
        "select 'q', ?, 'work', '', '', '', 0, 0, ?, 'waiting', 0, coalesce(max(seq), 0) + 1, 0, 0, 0, '' "
        "from conveyor_jobs",
        (id, group),
    )


def job(n: int, **fields: Any) -> JobRecord:
    return JobRecord(**{"queue": "q", "id": f"job-{n}", "name": "work", **fields})


def claim(count: int = 10, **fields: Any) -> Claim:
    values = {"token": "t", "lease": timedelta(seconds=30), "worker": "w", **fields}
    return Claim(queue="q", count=count, **values)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(tmp_path / "jobs.db", synchronous="NORMAL") as store:
        yield store


async def cost(store: SqliteStore, request: Claim, *, now: datetime = START) -> int:
    """What a claim costs, and how many jobs it got must be what it asked for."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    await store._write(Priority.REST, lambda db: db.set_progress_handler(tick, 10))
    claimed = await store.claim(request, now=now)
    await store._write(Priority.REST, lambda db: db.set_progress_handler(None, 0))
    assert len(claimed.jobs) == request.count
    await store.settle([Outcome.given_back(record) for record in claimed.jobs], now=now)
    return count


async def fill(store: SqliteStore, jobs: Iterator[JobRecord], count: int = MANY) -> None:
    for first in range(0, count, 5_000):
        page = range(min(5_000, count - first))
        await store.insert([record for record, _ in zip(jobs, page, strict=False)], now=START)


CLAIMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "newest first": {"newest_first": True},
    "by name": {"names": frozenset({"work", "rest"})},
    "by name, newest first": {"names": frozenset({"work", "rest"}), "newest_first": True},
    "limited": {"limit": Limit(active=1_000, rate=Rate(max=1_000_000, per=timedelta(hours=1)))},
}


@pytest.mark.slow
async def test_a_claim_costs_the_same_with_twenty_times_the_jobs(store: SqliteStore) -> None:
    names = ("work", "rest", "other")
    jobs = (job(n, name=names[n % 3], priority=n % 7) for n in range(10_000_000))
    await fill(store, jobs, FEW)
    before = {name: await cost(store, claim(**fields)) for name, fields in CLAIMS.items()}

    await fill(store, jobs)
    after = {name: await cost(store, claim(**fields)) for name, fields in CLAIMS.items()}

    assert {
        name: (before[name], after[name]) for name in CLAIMS if after[name] > before[name] * 1.3 + 20
    } == {}


@pytest.mark.slow
async def test_a_claim_costs_the_same_behind_twenty_times_as_many_finished_jobs(store: SqliteStore) -> None:
    await fill(store, (job(n) for n in range(10_000_000)), FEW)
    before = {name: await cost(store, claim(**fields)) for name, fields in CLAIMS.items()}
    await fill(store, (job(-n, priority=-1) for n in range(1, 10_000_000)))
    done = 0
    while done < MANY:
        claimed = await store.claim(claim(5_000), now=START)
        done += len(
            (await store.settle([Outcome.completed(r, "{}") for r in claimed.jobs], now=START)).applied
        )

    after = {name: await cost(store, claim(**fields)) for name, fields in CLAIMS.items()}

    assert {
        name: (before[name], after[name]) for name in CLAIMS if after[name] > before[name] * 1.3 + 20
    } == {}


@pytest.mark.slow
@pytest.mark.parametrize("group", [None, "g"])
async def test_a_claim_costs_the_same_with_paused_names_at_the_head(
    store: SqliteStore, group: str | None
) -> None:
    await fill(store, (job(n, group=group) for n in range(10_000_000)), FEW)
    await store.insert([job(-1, name="paused", priority=-1, group=group)], now=START)
    await store.pause("q", Pause(name="paused"), now=START)
    before = await cost(store, claim())

    await fill(store, (job(n, name="paused", priority=-1, group=group) for n in range(1_000_000, 10_000_000)))

    assert await cost(store, claim()) < before * 1.3 + 20


@pytest.mark.slow
async def test_a_claim_costs_the_same_with_saturated_groups_at_the_head(store: SqliteStore) -> None:
    groups = 2_000
    await store.insert(
        [job(n, group=f"busy-{n // 2}", priority=-2 + n % 2) for n in range(2 * groups)], now=START
    )
    await store.insert([job(1_000_000 + n, group=f"free-{n}") for n in range(50)], now=START)
    limited = claim(10, group_limit=Limit(active=1))
    taken = await store.claim(claim(groups, token="busy", group_limit=Limit(active=1)), now=START)
    assert {record.priority for record in taken.jobs} == {-2}
    many = await cost(store, limited)

    await store.delete(
        Where(queue="q", states=frozenset({record.state for record in taken.jobs})), limit=groups
    )
    waiting = await store.find(Where(queue="q"), limit=groups)
    await store.delete(
        Where(queue="q", ids=frozenset(r.id for r in waiting if r.priority == -1)), limit=groups
    )
    few = await cost(store, limited)

    assert many < few * 1.5 + 50


@pytest.mark.slow
async def test_a_claim_costs_the_same_with_groups_at_their_rate_at_the_head(store: SqliteStore) -> None:
    rate = Limit(rate=Rate(max=1, per=timedelta(hours=1)))
    groups = 2_000
    await store.insert([job(n, group=f"busy-{n // 2}", priority=-1) for n in range(2 * groups)], now=START)
    await store.insert([job(1_000_000 + n, group=f"free-{n}") for n in range(50)], now=START)
    taken = await store.claim(claim(groups, token="busy", group_limit=rate), now=START)
    assert len({record.group for record in taken.jobs}) == groups
    # the first claim that meets the groups finds out that their windows are full
    await store.claim(claim(1, token="finds out", group_limit=rate), now=START)

    first, second = (
        await cost(store, claim(5, group_limit=rate)),
        await cost(store, claim(5, group_limit=rate)),
    )

    assert max(first, second) < 3_000


@pytest.mark.slow
async def test_a_queue_without_groups_does_not_pay_for_them(store: SqliteStore) -> None:
    await fill(store, (job(n) for n in range(10_000_000)), FEW)
    alone = await cost(store, claim())
    await fill(store, (job(n, queue="other", group=f"g{n % 500}") for n in range(10_000_000)), 20_000)

    assert await cost(store, claim()) < alone * 1.1 + 10


@pytest.mark.slow
@pytest.mark.parametrize("groups", [5_000, pytest.param(100_000, marks=pytest.mark.chaos)])
async def test_thousands_of_idle_groups_leave_nothing_behind(store: SqliteStore, groups: int) -> None:
    rate = Limit(rate=Rate(max=1, per=timedelta(seconds=1)))
    await fill(store, (job(n, group=f"g{n}") for n in range(10_000_000)), groups)
    done = 0
    while done < groups:
        claimed = await store.claim(claim(5_000, group_limit=rate), now=START)
        done += len(
            (await store.settle([Outcome.completed(r, "{}") for r in claimed.jobs], now=START)).applied
        )

    await store.advance({"q"}, now=START + timedelta(minutes=1))

    def rows(db: sqlite3.Connection) -> list[int]:
        tables = ("groups", "subqueues", "starts", "queues")
        return [db.execute(f"select count(*) from conveyor_{table}").fetchone()[0] for table in tables]  # noqa: S608

    assert await store._read(rows) == [0, 0, 0, 0]


async def test_what_a_claim_and_a_settle_ask_of_sqlite_is_a_few_statements(store: SqliteStore) -> None:
    def words(statements: list[str]) -> list[str]:
        # a trigger that looks at each row is told of by a comment, or as the statement again
        lines = [line for text in statements for line in text.splitlines() if line[:1].isalpha()]
        return [word for word, _ in groupby(line.split()[0] for line in lines)]

    # Each gives another thread a chance to take the interpreter for 5 ms: see statements.py.
    await store.insert([job(n) for n in range(256)], now=START)
    seen: list[str] = []
    await store._write(Priority.REST, lambda db: db.set_trace_callback(seen.append))

    claimed = await store.claim(claim(128), now=START)
    claiming, seen[:] = words(seen), []
    await store.settle([Outcome.completed(record, "{}") for record in claimed.jobs], now=START)
    settling = words(seen)

    # the first commit is that of the step which began to listen
    assert claiming == ["commit", "begin", "select", "update", "select", "commit"]
    assert settling == ["begin", "select", "update", "commit"]
