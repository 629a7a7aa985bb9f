"""What stores on SQL databases share: no SQL, no driver. See `UnitOfWork` and `JobTable`."""

from __future__ import annotations

from conveyor.store.sql.driving import run_now
from conveyor.store.sql.jobs import REMEMBERED, JobTable, Key, Row
from conveyor.store.sql.sets import delete, update
from conveyor.store.sql.settling import settle
from conveyor.store.sql.work import UnitOfWork

__all__ = [
    "REMEMBERED",
    "JobTable",
    "Key",
    "Row",
    "UnitOfWork",
    "delete",
    "run_now",
    "settle",
    "update",
]
