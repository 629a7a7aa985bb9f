"""Jobs as rows: the only place that knows the order of the columns, and how values are read.

Instants come as timestamps in UTC without a zone, whatever the server's own zone is; durations are whole
microseconds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from conveyor.core.store import JobKey, JobRecord, record_of
from conveyor.store.pg.statements import Row, Session
from conveyor.store.sql import STATES, UNREADABLE

_EXPONENT: Final = re.compile(r"[0-9][eE][-+]?[0-9]")
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|(-?[0-9]+(?:\.[0-9]+)?[eE][-+]?[0-9]+)')


def instant(stored: datetime | None) -> datetime | None:
    """The instant that was read, if one was."""
    return None if stored is None else stored.replace(tzinfo=UTC)


def known_instant(stored: datetime) -> datetime:
    """The instant that was read."""
    return stored.replace(tzinfo=UTC)


def jsonb(document: str) -> str:
    """The document with every float written out, for jsonb: 1e23 would come back as another number.

    jsonb keeps numbers as decimals, with the digits behind the point that they were given, and exponents not
    at all. That is exact for a float as long as it still looks like one.
    """
    if not _EXPONENT.search(document):
        return document
    return _TOKEN.sub(lambda token: token[0] if token[1] is None else _written_out(token[1]), document)


def _written_out(number: str) -> str:
    digits = f"{Decimal(number):f}"
    return digits if "." in digits else f"{digits}.0"


async def moment(session: Session, now: datetime | None) -> datetime:
    """That moment, or the present one by the server's clock."""
    if now is not None:
        return now
    [(found,)] = await session.ask("current_time")
    return known_instant(found)


def record_or_reason(row: Row, now: datetime) -> JobRecord | Exception:
    """The record of a row, or why there is none."""
    try:
        return _record(row, now)
    except UNREADABLE as error:
        return error


def _record(row: Row, now: datetime) -> JobRecord:
    (
        queue, id, name, payload, options, report, priority, lifo, ageing, delay, run_at, group,
        group_max_size, unique_key, unique_for, parent_queue, parent_id, state, seq, sort_key,
        holds_key, unique_until, pending, released, token, lease_until, locked_by, attempt, stalled,
        started, cancel_requested, created_at, processed_at, finished_at, expires_at, keep_count,
    ) = row  # fmt: skip
    until = instant(unique_until)
    return record_of(
        queue,
        id,
        name,
        payload,
        options,
        report,
        priority,
        lifo,
        ageing if ageing is None else timedelta(microseconds=ageing),
        delay if delay is None else timedelta(microseconds=delay),
        run_at if run_at is None else run_at.replace(tzinfo=UTC),
        group,
        group_max_size,
        unique_key,
        unique_for if unique_for is None else timedelta(microseconds=unique_for),
        None if parent_id is None else JobKey(parent_queue, parent_id),
        STATES[state],
        seq,
        sort_key,
        holds_key and (until is None or until > now),
        until,
        pending,
        released,
        token,
        lease_until if lease_until is None else lease_until.replace(tzinfo=UTC),
        locked_by,
        attempt,
        stalled,
        started,
        cancel_requested,
        created_at.replace(tzinfo=UTC),
        processed_at if processed_at is None else processed_at.replace(tzinfo=UTC),
        finished_at if finished_at is None else finished_at.replace(tzinfo=UTC),
        expires_at if expires_at is None else expires_at.replace(tzinfo=UTC),
        keep_count,
    )
