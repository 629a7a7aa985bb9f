"""The table of jobs, as a unit of work reads and writes it.

A step runs while no other can write, so what it read stays true until it has written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from sqlite3 import Connection
from typing import Any, Final

from conveyor.core.store import Lease
from conveyor.store.sql import MICROSECOND, UNREADABLE, Key, Row, known_state, microseconds
from conveyor.store.sqlite.rows import decoded_sort_key, encoded_sort_key, read, written
from conveyor.store.sqlite.statements import ask, fetch, run, text, write

#: A step writes its own moment in many rows.
_written: Final = lru_cache(256)(written)


class Jobs:
    """The table of jobs, for a unit of work."""

    def __init__(self, db: Connection) -> None:
        """Use a connection whose transaction writes."""
        self._db = db

    async def read(self, keys: Collection[Key]) -> list[Row]:
        """Those of these jobs that there are."""
        return [_row(values) for values in ask(self._db, "read_rows", keys=text(keys))]

    def read_by_seq(self, seqs: Sequence[int]) -> list[Row]:
        """The jobs with these numbers, in that order."""
        rows = {row[0]: row for row in ask(self._db, "read_rows_by_seq", seqs=text(seqs))}
        return [_row(rows[seq]) for seq in seqs if seq in rows]

    async def save(self, rows: Sequence[Row]) -> None:
        """Write the state of these jobs, and what goes with it."""
        write(self._db, "save_jobs", [_saved(row) for row in rows])

    async def rewrite(self, rows: Sequence[Row]) -> None:
        """Write what only `Store.update` changes."""
        values = [
            (row.seq, row.priority, encoded_sort_key(row.sort_key), row.payload, row.reset) for row in rows
        ]
        write(self._db, "rewrite_jobs", values)

    async def remove(self, rows: Sequence[Row]) -> None:
        """Remove these jobs."""
        run(self._db, "delete_jobs", seqs=text([row.seq for row in rows]))

    async def write_tombstones(self, rows: Sequence[Row], now: datetime) -> None:
        """Remember what was settled last of these jobs."""
        tombstones = [(row.queue, row.id, row.settled_token, row.settled_state) for row in rows]
        run(self._db, "write_tombstones", tombstones=text(tombstones), now=_written(now))

    async def find_tombstones(self, leases: Collection[Lease]) -> set[tuple[Lease, str]]:
        """What was settled last of jobs that are gone."""
        found = ask(self._db, "find_tombstones", leases=text(leases))
        return {(Lease(queue, id, token), state) for queue, id, token, state in found}

    async def holder(self, queue: str, unique_key: str) -> str | None:
        """The id of the job that is stored as the holder of a key."""
        found = fetch(self._db, "find_key_holder", queue=queue, key=unique_key)
        return None if found is None else found[0]

    async def count_unreleased(self, parent: Key) -> int:
        """How many children of a parent have not released it."""
        count: int = fetch(self._db, "count_unreleased", queue=parent[0], id=parent[1])[0]
        return count


def _row(values: Sequence[Any]) -> Row:
    """What a step has to know of a job. What cannot be read is left out: the row must not stop the others."""
    (
        seq,
        queue,
        id,
        state,
        token,
        attempt,
        stalled,
        cancel_requested,
        priority,
        sort_key,
        run_at,
        delay,
        pending,
        released,
        parent_queue,
        parent_id,
        unique_key,
        unique_for,
        unique_until,
        holds_key,
        finished_at,
        expires_at,
        keep_count,
        settled_token,
        settled_state,
        settled_at,
    ) = values
    return Row(
        seq,
        queue,
        id,
        "",
        None,
        known_state(state),
        token,
        attempt,
        stalled,
        bool(cancel_requested),
        priority,
        decoded_sort_key(sort_key) if sort_key and isinstance(sort_key, int) else 0.0,
        None if run_at is None else _instant(run_at),
        None if delay is None else _duration(delay),
        pending,
        bool(released),
        None if parent_id is None else (parent_queue, parent_id),
        unique_key,
        unique_for,
        None if unique_until is None else _instant(unique_until),
        bool(holds_key),
        None if finished_at is None else _instant(finished_at),
        None if expires_at is None else _instant(expires_at),
        keep_count,
        settled_token,
        settled_state,
        None if settled_at is None else _instant(settled_at),
    )


def _instant(stored: str) -> datetime | None:
    try:
        return read(stored)
    except UNREADABLE:
        return None


def _duration(stored: int) -> timedelta | None:
    try:
        return stored * MICROSECOND
    except UNREADABLE:
        return None


def _saved(row: Row) -> tuple[Any, ...]:
    """The values of `save_jobs.sql`."""
    # Numbers where bools would do: for any value but numbers and text `sqlite3` looks for an adapter.
    return (
        row.seq,
        row.state.value,
        row.attempt,
        1 if row.cancel_requested else 0,
        None if row.run_at is None else _written(row.run_at),
        None if row.delay is None else microseconds(row.delay),
        row.pending,
        1 if row.released else 0,
        1 if row.holds_key else 0,
        None if row.finished_at is None else _written(row.finished_at),
        None if row.expires_at is None else _written(row.expires_at),
        row.keep_count,
        row.settled_token,
        row.settled_state,
        None if row.settled_at is None else _written(row.settled_at),
        row.report,
        row.stalled,
    )
