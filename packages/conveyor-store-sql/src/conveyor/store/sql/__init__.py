"""What stores on SQL databases share: no SQL, no driver. See `JobTable` and `StartTable`."""

from __future__ import annotations

from conveyor.store.sql.branches import (
    ANY_STATE,
    BACKWARDS,
    BY_END,
    GROUPED,
    UNGROUPED,
    Branch,
    Sorting,
    bounded_counts,
    branches_of,
    given_terms,
    is_of_a_few,
    is_of_a_queue,
    merged_branches,
    ordered_apart,
    sorting,
)
from conveyor.store.sql.claims import Taken, time_until_more
from conveyor.store.sql.driving import run_now
from conveyor.store.sql.fair_share import FairShare, More, Picks, Position, SubQueue
from conveyor.store.sql.inserting import Created, InsertTable, New, existing_jobs, insert, refuse_full_groups
from conveyor.store.sql.jobs import REMEMBERED, JobTable, Key, Row
from conveyor.store.sql.limits import (
    Capacity,
    Scope,
    StartTable,
    capacity,
    note_starts,
    rate_name,
    rate_of,
    register_windows,
    windows,
)
from conveyor.store.sql.listeners import Wanted, decoded_wants, encoded_wants
from conveyor.store.sql.migrations import Migration, migrations_in, pending_after
from conveyor.store.sql.opening import LoopLock
from conveyor.store.sql.options import checked_flag, refuse_unknown, shown_name
from conveyor.store.sql.pauses import PauseKey, pause_of
from conveyor.store.sql.records import ATTEMPT, GROUP, ID, NAME, SEQ, Read, read_page
from conveyor.store.sql.renewing import merged_beats, renewed
from conveyor.store.sql.sets import delete, update
from conveyor.store.sql.settling import settle
from conveyor.store.sql.values import (
    FOREVER,
    MICROSECOND,
    NO_TIME,
    STATES,
    UNREADABLE,
    known_state,
    microseconds,
)
from conveyor.store.sql.work import UnitOfWork

__all__ = [
    "ANY_STATE",
    "ATTEMPT",
    "BACKWARDS",
    "BY_END",
    "FOREVER",
    "GROUP",
    "GROUPED",
    "ID",
    "MICROSECOND",
    "NAME",
    "NO_TIME",
    "REMEMBERED",
    "SEQ",
    "STATES",
    "UNGROUPED",
    "UNREADABLE",
    "Branch",
    "Capacity",
    "Created",
    "FairShare",
    "InsertTable",
    "JobTable",
    "Key",
    "LoopLock",
    "Migration",
    "More",
    "New",
    "PauseKey",
    "Picks",
    "Position",
    "Read",
    "Row",
    "Scope",
    "Sorting",
    "StartTable",
    "SubQueue",
    "Taken",
    "UnitOfWork",
    "Wanted",
    "bounded_counts",
    "branches_of",
    "capacity",
    "checked_flag",
    "decoded_wants",
    "delete",
    "encoded_wants",
    "existing_jobs",
    "given_terms",
    "insert",
    "is_of_a_few",
    "is_of_a_queue",
    "known_state",
    "merged_beats",
    "merged_branches",
    "microseconds",
    "migrations_in",
    "note_starts",
    "ordered_apart",
    "pause_of",
    "pending_after",
    "rate_name",
    "rate_of",
    "read_page",
    "refuse_full_groups",
    "refuse_unknown",
    "register_windows",
    "renewed",
    "run_now",
    "settle",
    "shown_name",
    "sorting",
    "time_until_more",
    "update",
    "windows",
]
