"""All that a store needs of core: the contract, its values, the records of jobs, and the plan of an insert.

`conveyor.core.store.contract` says what a store owes. Its errors are in `conveyor.core.errors`, its events in
`conveyor.core.events`, and the durations of its options in `conveyor.core.durations`.
"""

from __future__ import annotations

from conveyor.core.store.base import Store
from conveyor.core.store.contract import StoreCalls
from conveyor.core.store.insertion import (
    InitialState,
    InsertPlan,
    check_groups,
    group_growth,
    initial_state,
    new_row,
    plan_insert,
)
from conveyor.core.store.outcomes import Outcome, Release
from conveyor.core.store.records import (
    TERMINAL,
    JobKey,
    JobRecord,
    JobState,
    Lease,
    record_of,
    replaced,
)
from conveyor.core.store.using import View, buffered
from conveyor.core.store.values import (
    Advanced,
    Beat,
    Change,
    Claim,
    Claimed,
    Deleted,
    Feature,
    Inserted,
    Limit,
    Order,
    Pause,
    Rate,
    Renewed,
    Retention,
    Settled,
    Stalled,
    Undecodable,
    Where,
)

__all__ = [
    "TERMINAL",
    "Advanced",
    "Beat",
    "Change",
    "Claim",
    "Claimed",
    "Deleted",
    "Feature",
    "InitialState",
    "InsertPlan",
    "Inserted",
    "JobKey",
    "JobRecord",
    "JobState",
    "Lease",
    "Limit",
    "Order",
    "Outcome",
    "Pause",
    "Rate",
    "Release",
    "Renewed",
    "Retention",
    "Settled",
    "Stalled",
    "Store",
    "StoreCalls",
    "Undecodable",
    "View",
    "Where",
    "buffered",
    "check_groups",
    "group_growth",
    "initial_state",
    "new_row",
    "plan_insert",
    "record_of",
    "replaced",
]
