"""Which rows a `Where` means, and the orders they may be asked for in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Final

from conveyor.core.store import JobRecord, Order, Where
from conveyor.store.memory.rows import EPOCH, Row, tie_break


def matching(  # noqa: C901 - one for each field
    where: Where, rows: Iterable[Row], now: datetime
) -> Iterator[Row]:
    """Those of the rows that match everything in `where` but `expired`."""
    for row in rows:
        if where.queue is not None and row.queue != where.queue:
            continue
        if where.ids is not None and row.id not in where.ids:
            continue
        if where.states is not None and row.state not in where.states:
            continue
        if where.names is not None and row.name not in where.names:
            continue
        if where.group is not None and row.group != where.group:
            continue
        if where.parent is not None and row.parent != where.parent:
            continue
        if where.unique_key is not None and not (row.unique_key == where.unique_key and row.holds(now)):
            continue
        if where.report is not None and row.report != where.report:
            continue
        if where.unretained and not row.unretained:
            continue
        if where.older_than is not None and now - (row.finished_at or row.created_at) < where.older_than:
            continue
        yield row


#: What `find` sorts by; the same of a row and of a record that was found before.
ORDERS: Final[dict[Order, Callable[[Row | JobRecord], tuple[Any, ...]]]] = {
    Order.ADDED: lambda job: (job.seq,),
    Order.NEWEST: lambda job: (-job.seq,),
    Order.FINISHED: lambda job: (
        (0, EPOCH - job.finished_at, -job.seq) if job.finished_at else (1, None, -job.seq)
    ),
    Order.EARLIEST: lambda job: (
        (0, job.finished_at - EPOCH, job.seq) if job.finished_at else (1, None, job.seq)
    ),
    Order.CLAIM: lambda job: (job.sort_key, tie_break(job)),
}
