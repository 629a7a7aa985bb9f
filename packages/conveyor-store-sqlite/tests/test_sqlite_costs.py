"""No call costs more for the jobs it is not about: instructions of SQLite's machine, counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import pytest

from conveyor.conformance.contract.costs import GROUPS, SHAPES, begin, costs, fill, grown
from conveyor.conformance.kit.make import START, at
from conveyor.core.store import JobState, Where
from conveyor.store.sqlite import SqliteStore
from conveyor.store.sqlite.rows import written
from conveyor.store.sqlite.threads import Priority

FEW, MANY = 2_000, 20_000
#: Instructions are counted by this many.
BY = 10
#: More for a deeper tree, a fuller page: no call of ten jobs may cost that for the size of the table.
SPARE = 60

#: What differs from a waiting job, by shape; `n` is its number.
COLUMNS: dict[str, dict[str, str]] = {
    "waiting": {},
    "delayed": {"state": "'delayed'", "run_at": f"'{written(at(36_000))}'"},
    "active": {"state": "'active'", "token": "'t' || n", "lease_until": f"'{written(at(36_000))}'"},
    "paused name": {"name": "'paused'"},
    "groups": {"grp": f"'group-' || ((n - 1) % {GROUPS})"},
    "finished": {
        "state": "'completed'",
        "finished_at": f"case when n <= :number / 2 then '{written(at(-7_200))}' else '{written(START)}' end",
        "expires_at": f"case when n <= :number / 2 then '{written(at(-7_200) + timedelta(days=36_500))}' end",
    },
}


def fill_at_once(db: Connection, shape: str, number: int) -> None:
    """What `costs.fill` does, by one statement: in a tenth of the time."""
    columns = {
        "queue": "'q'",
        "id": "'old-' || (n - 1)",
        "name": "'work'",
        "state": "'waiting'",
        **dict.fromkeys(["payload", "options", "report"], "'{}'"),
        **dict.fromkeys(["priority", "lifo", "sort_key", "holds_key", "pending", "released"], "0"),
        "tie_break": "n",
        "created_at": f"'{written(START)}'",
        **COLUMNS[shape],
    }
    db.execute(
        f"insert into conveyor_jobs ({', '.join(columns)}) "  # noqa: S608 - of this file
        "with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < :number) "
        f"select {', '.join(columns.values())} from numbers",
        {"number": number},
    )


async def counted(store: SqliteStore, call: Callable[[], Awaitable[Any]]) -> tuple[int, Any]:
    """Make a call, and count the instructions of both threads meanwhile."""
    steps = 0

    def tick() -> int:
        nonlocal steps
        steps += 1
        return 0

    def count(number: int) -> Callable[[Connection], None]:
        return lambda db: db.set_progress_handler(tick if number else None, number)

    await store._write(Priority.REST, count(BY))
    await store._read(count(BY))
    answer = await call()
    await store._write(Priority.REST, count(0))
    await store._read(count(0))
    return steps, answer


async def bill(path: Path, shape: str, number: int, *prepared: str) -> dict[str, int]:
    async with SqliteStore(path, synchronous="NORMAL") as store:
        await store._write(Priority.REST, lambda db: fill_at_once(db, shape, number))
        await begin(store, shape)
        for sql in prepared:
            await store._write(Priority.REST, lambda db, sql=sql: db.execute(sql) and None)  # type: ignore[misc]
        return await costs(store, lambda call: counted(store, call))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
async def test_no_call_costs_more_beside_a_great_many_jobs(tmp_path: Path, shape: str) -> None:
    few = await bill(tmp_path / "few.db", shape, FEW)
    many = await bill(tmp_path / "many.db", shape, MANY)

    assert grown(few, many, spare=SPARE) == {}


@pytest.mark.slow
async def test_an_index_that_is_missing_shows(tmp_path: Path) -> None:
    without = "drop index conveyor_jobs_all_waiting"

    few = await bill(tmp_path / "few.db", "waiting", 500, without)
    many = await bill(tmp_path / "many.db", "waiting", 5_000, without)

    assert {"find all, added", "find waiting, newest", "delete waiting"} <= set(grown(few, many, spare=SPARE))


@pytest.mark.parametrize("shape", SHAPES)
async def test_tables_are_filled_as_by_the_contract(tmp_path: Path, shape: str) -> None:
    async with SqliteStore(tmp_path / "a.db") as store, SqliteStore(tmp_path / "b.db") as other:
        await fill(store, shape, 3)
        await other._write(Priority.REST, lambda db: fill_at_once(db, shape, 3))
        await begin(other, shape)

        assert await look(store) == await look(other)


async def look(store: SqliteStore) -> list[object]:
    found = await store.find(Where(queue="q"), limit=9, now=at(1))
    return [
        await store.count(Where(queue="q"), now=at(1)),
        *((one.id, one.name, one.group, one.state, one.seq, one.sort_key, one.run_at) for one in found),
        *(one.lease_until for one in found if one.state is JobState.ACTIVE),
        *((one.finished_at, one.expires_at) for one in found),
        await store.paused("q", now=at(1)),
    ]
