"""Records from rows, whose columns are in the order of `JobRecord`'s fields, with `parent` as two."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from logging import Logger
from typing import Any, Final

from conveyor.core.store import JobRecord

#: Where in a row these stand.
ID: Final = 1
NAME: Final = 2
GROUP: Final = 11
SEQ: Final = 18
ATTEMPT: Final = 27


#: A row, and its record, or why there is none.
Read = tuple[Sequence[Any], JobRecord | Exception]


async def read_page(
    read: Callable[[int], Awaitable[Sequence[Read]]], limit: int, log: Logger
) -> list[JobRecord]:
    """Up to `limit` records, in order; fewer only where there are no more.

    `read` gives so many of the first rows. Rows that cannot be read are left out, and logged with the reason;
    others are read in their stead, since core takes a short page for the last one.
    """
    wanted = limit
    while True:
        found = await read(wanted)
        spoilt = sum(not isinstance(record, JobRecord) for _, record in found)
        if len(found) < wanted or len(found) - spoilt >= limit:
            return _readable(found, log)[:limit]
        wanted = limit + 2 * spoilt


def _readable(found: Iterable[Read], log: Logger) -> list[JobRecord]:
    records: list[JobRecord] = []
    for row, record in found:
        if isinstance(record, JobRecord):
            records.append(record)
        else:
            log.warning("job %r of queue %r cannot be read and is left out: %s", row[ID], row[0], record)
    return records
