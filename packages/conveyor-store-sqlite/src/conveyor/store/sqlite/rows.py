"""Jobs as rows: the only place that knows the order of the columns, and how values are written.

Instants are ISO 8601 text in UTC with microseconds, so that text compares as time does; durations
are whole microseconds. Steps compare instants as text, and never read more than they must.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from sqlite3 import Connection
from typing import Any, Final

from conveyor.core.store import InitialState, JobKey, JobRecord, record_of
from conveyor.store.sql import SEQ, STATES, UNREADABLE, microseconds
from conveyor.store.sqlite.statements import ask, text

#: Rows read by one statement: a thousand payloads of 1 MiB are more than SQLite puts in one value.
_PAGE: Final = 200
_WIDTH: Final = len("2026-01-01T00:00:00.000000Z")
_SIGN: Final = 1 << 63


# ------------------------------------------------------------------ values


def written(at: datetime) -> str:
    """The instant as it is stored."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"


@lru_cache(1024)
def read(stored: str) -> datetime:
    """The instant that was stored; raises ValueError for anything else."""
    if len(stored) != _WIDTH:
        raise ValueError(f"{stored!r} is no instant")
    return datetime.fromisoformat(stored)


def read_or(stored: str | None, otherwise: datetime) -> datetime:
    """The instant that was stored, or the other one: for rules that must not stop at a bad row."""
    try:
        return otherwise if stored is None else read(stored)
    except UNREADABLE:
        return otherwise


def encoded_sort_key(sort_key: float) -> int:
    """An integer that sorts as the sort key does, and holds it exactly."""
    bits: int = struct.unpack(">q", struct.pack(">d", sort_key))[0]
    return bits if bits >= 0 else -(bits + _SIGN)


def decoded_sort_key(key: int) -> float:
    """The sort key that an integer of `encoded_sort_key` stands for."""
    found: float = struct.unpack(">d", struct.pack(">q", key if key >= 0 else -key - _SIGN))[0]
    return found


def tie_break_of(seq: int, *, lifo: bool) -> int:
    """What decides between jobs of the same sort key: `lifo` ones first, newest first."""
    return -seq if lifo else seq


# ------------------------------------------------------------------ reading


def records(
    db: Connection, seqs: Sequence[int], now: str
) -> list[tuple[Sequence[Any], JobRecord | Exception]]:
    """The rows with these numbers, in that order, each with its record, or why there is none."""
    found: list[tuple[Sequence[Any], JobRecord | Exception]] = []
    for start in range(0, len(seqs), _PAGE):
        rows = ask(db, "read_records", seqs=text(seqs[start : start + _PAGE]))
        for row in rows:
            try:
                if db.text_factory is not str:
                    "".join(value for value in row if isinstance(value, str)).encode()
                found.append((row, _record(row, now)))
            except UNREADABLE as error:
                found.append((row, error))
    order = {seq: place for place, seq in enumerate(seqs)}
    found.sort(key=lambda each: order[each[0][SEQ]])
    return found


def _record(row: Sequence[Any], now: str) -> JobRecord:
    (
        queue, id, name, payload, options, report, priority, lifo, ageing, delay, run_at, group,
        group_max_size, unique_key, unique_for, parent_queue, parent_id, state, seq, sort_key,
        holds_key, unique_until, pending, released, token, lease_until, locked_by, attempt, stalled,
        started, cancel_requested, created_at, processed_at, finished_at, expires_at, keep_count,
    ) = row  # fmt: skip
    return record_of(
        queue,
        id,
        name,
        payload,
        options,
        report,
        priority,
        lifo != 0,
        ageing if ageing is None else timedelta(microseconds=ageing),
        delay if delay is None else timedelta(microseconds=delay),
        run_at if run_at is None else read(run_at),
        group,
        group_max_size,
        unique_key,
        unique_for if unique_for is None else timedelta(microseconds=unique_for),
        None if parent_id is None else JobKey(parent_queue, parent_id),
        STATES[state],
        seq,
        decoded_sort_key(sort_key) if sort_key else 0.0,
        holds_key != 0 and (unique_until is None or unique_until > now),
        unique_until if unique_until is None else read(unique_until),
        pending,
        released != 0,
        token,
        lease_until if lease_until is None else read(lease_until),
        locked_by,
        attempt,
        stalled,
        started != 0,
        cancel_requested != 0,
        read(created_at),
        processed_at if processed_at is None else read(processed_at),
        finished_at if finished_at is None else read(finished_at),
        expires_at if expires_at is None else read(expires_at),
        keep_count,
    )


# ------------------------------------------------------------------ writing


def new_row(
    job: JobRecord,
    seq: int,
    initial: InitialState,
    moment: str,
    *,
    released: bool = False,
) -> tuple[Any, ...]:
    """A new job's values, in the order of `insert.sql`."""
    state, run_at, delay, sort_key, unique_until, pending = initial
    # Numbers where bools would do: see `jobs.py`.
    return (
        seq,
        job.queue,
        job.id,
        job.name,
        job.payload,
        job.options,
        job.report,
        job.priority,
        1 if job.lifo else 0,
        microseconds(job.ageing),
        microseconds(delay),
        run_at if run_at is None else written(run_at),
        job.group,
        job.group_max_size,
        job.unique_key,
        microseconds(job.unique_for),
        None if job.parent is None else job.parent.queue,
        None if job.parent is None else job.parent.id,
        state.value,
        encoded_sort_key(sort_key) if sort_key else 0,
        -seq if job.lifo else seq,
        0 if job.unique_key is None else 1,
        None if unique_until is None else written(unique_until),
        pending,
        1 if released else 0,
        moment,
    )
