"""Conveyor: a job queue for Python whose storage is interchangeable."""

from __future__ import annotations

from conveyor.core._inspect.groups import GroupInfo
from conveyor.core._inspect.worker_registry import RunningJob, WorkerInfo
from conveyor.core._jobs.dead_letters import DeadLetter
from conveyor.core._jobs.report import Attempt
from conveyor.core.backoff import Backoff
from conveyor.core.batch import Batch
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
from conveyor.core.job import Job
from conveyor.core.job_options import AddOptions, Deduplication, Group, JobOptions, Keep
from conveyor.core.limits import GroupLimit, RateLimit
from conveyor.core.queue import NewJob, Queue
from conveyor.core.schedules import RunAll, Schedule
from conveyor.core.signals import RateLimited, Retry, Snooze, Unrecoverable
from conveyor.core.store import Feature, JobState, Order, Pause, Store
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
