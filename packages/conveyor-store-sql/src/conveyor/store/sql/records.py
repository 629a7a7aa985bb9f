"""Records from rows, whose columns are in the order of `JobRecord`'s fields, with `parent` as two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from logging import Logger
from typing import Any, Final

from conveyor.core.store import JobRecord

#: Where in a row these stand.
ID: Final = 1
NAME: Final = 2
GROUP: Final = 11
SEQ: Final = 18
ATTEMPT: Final = 27


def readable(found: Iterable[tuple[Sequence[Any], JobRecord | Exception]], log: Logger) -> list[JobRecord]:
    """The records of rows, without the rows of which there is none: those are logged, with the reason."""
    records: list[JobRecord] = []
    for row, record in found:
        if isinstance(record, JobRecord):
            records.append(record)
        else:
            log.warning("job %r of queue %r cannot be read and is left out: %s", row[ID], row[0], record)
    return records
