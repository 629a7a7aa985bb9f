"""Conveyor: a job queue for Python whose storage is interchangeable."""

from __future__ import annotations

from conveyor.core.batches import Batch
from conveyor.core.dead_letters import DeadLetter
from conveyor.core.discovery import InstalledStore, installed_stores, open_store
from conveyor.core.errors import (
    BatchResultError,
    ConveyorError,
    GroupFullError,
    InvalidJobStateError,
    InvalidOptionError,
    JobCancelledError,
    JobExistsError,
    JobFailedError,
    JobNotFoundError,
    JobRemovedError,
    JobTimeoutError,
    LeaseLostError,
    PayloadError,
    ScheduleNotFoundError,
    SchemaTooNewError,
    StoreBusyError,
    StoreClosedError,
    StoreConflictError,
    StoreError,
    StoreForkedError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    UnknownStoreError,
    UnserialisableResultError,
    UnsupportedFeatureError,
    WaitTimeoutError,
    WorkerClosedError,
)
from conveyor.core.explanation import Explanation, Reason
from conveyor.core.flow import FlowJob, FlowProducer, FlowResult
from conveyor.core.groups import GroupInfo
from conveyor.core.job import Job
from conveyor.core.jobs import JobState
from conveyor.core.limits import GroupLimit, RateLimit
from conveyor.core.options import AddOptions, Deduplication, Group, JobOptions, Keep
from conveyor.core.plan import RunAll
from conveyor.core.queue import NewJob, Queue
from conveyor.core.report import Attempt
from conveyor.core.retry import Backoff
from conveyor.core.scheduling import Schedule
from conveyor.core.seen import RunningJob, WorkerInfo
from conveyor.core.signals import RateLimited, Retry, Snooze, Unrecoverable
from conveyor.core.store import Feature, Order, Pause, Store
from conveyor.core.worker import Handler, Worker, WorkerStats

__all__ = [
    "AddOptions",
    "Attempt",
    "Backoff",
    "Batch",
    "BatchResultError",
    "ConveyorError",
    "DeadLetter",
    "Deduplication",
    "Explanation",
    "Feature",
    "FlowJob",
    "FlowProducer",
    "FlowResult",
    "Group",
    "GroupFullError",
    "GroupInfo",
    "GroupLimit",
    "Handler",
    "InstalledStore",
    "InvalidJobStateError",
    "InvalidOptionError",
    "Job",
    "JobCancelledError",
    "JobExistsError",
    "JobFailedError",
    "JobNotFoundError",
    "JobOptions",
    "JobRemovedError",
    "JobState",
    "JobTimeoutError",
    "Keep",
    "LeaseLostError",
    "NewJob",
    "Order",
    "Pause",
    "PayloadError",
    "Queue",
    "RateLimit",
    "RateLimited",
    "Reason",
    "Retry",
    "RunAll",
    "RunningJob",
    "Schedule",
    "ScheduleNotFoundError",
    "SchemaTooNewError",
    "Snooze",
    "Store",
    "StoreBusyError",
    "StoreClosedError",
    "StoreConflictError",
    "StoreError",
    "StoreForkedError",
    "StoreFullError",
    "StoreReadOnlyError",
    "StoreUnavailableError",
    "UnknownStoreError",
    "Unrecoverable",
    "UnserialisableResultError",
    "UnsupportedFeatureError",
    "WaitTimeoutError",
    "Worker",
    "WorkerClosedError",
    "WorkerInfo",
    "WorkerStats",
    "installed_stores",
    "open_store",
]
