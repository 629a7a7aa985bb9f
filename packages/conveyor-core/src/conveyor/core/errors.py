"""Every error Conveyor raises.

ConveyorError
├── InvalidOptionError (ValueError)       an option, name, duration or instant that cannot be used
├── PayloadError (ValueError)             data that cannot be stored, or would come back changed
├── UnserialisableResultError (TypeError) a handler's result that cannot be stored
├── JobNotFoundError (LookupError)        the job is not (or no longer) in the store
├── JobExistsError (ValueError)           a flow has a job_id that is taken; nothing was added
├── ScheduleNotFoundError (LookupError)   the queue has no schedule with this key
├── InvalidJobStateError                  the job's state does not allow the call
├── JobFailedError                        a job that was waited for failed
├── JobCancelledError                     a job that was waited for was cancelled
├── JobRemovedError                       a job that was waited for was removed
├── WaitTimeoutError (TimeoutError)       a job that was waited for had not finished in time; it goes on
├── JobTimeoutError (TimeoutError)        a handler ran longer than its job's timeout
├── BatchResultError (ValueError)         a batch's handler returned not one result for each job
├── LeaseLostError                        the writer no longer holds the job
├── WorkerClosedError                     a worker was started, or used, after its close
├── GroupFullError                        a group has reached its max_size
├── UnknownStoreError (LookupError)       no installed store serves the URL's scheme
├── StoreConflictError                    two distributions claim one URL scheme
├── UnsupportedFeatureError               the store does not offer what was asked for
└── StoreError                            the store could not do its work; see `.retryable`
    ├── StoreUnavailableError             cannot be reached now             (retryable)
    ├── StoreBusyError                    locked by others for too long     (retryable)
    ├── StoreFullError                    no room left                      (retryable)
    ├── StoreReadOnlyError                cannot be written to              (retryable)
    ├── StoreForkedError                  used in a forked child process
    ├── StoreClosedError                  used before open() or after close()
    └── SchemaTooNewError                 the data was written by a newer release
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import timedelta

    from conveyor.core.states import JobState

#: Stands in an error for what was given, and may hold a password.
HIDDEN: Final = "..."
#: What a URL or a DSN with a password has.
_SECRETIVE: Final = re.compile(r"[@=]|//[^/]*:")
#: More of a value than this does not help to find it.
_LONGEST_SHOWN = 120


def showable(url: object) -> object:
    """What an error may show of a URL or a DSN: nothing if there may be a password in it.

    Of what is no text it is the type: the objects that other libraries make of URLs show their passwords.
    """
    if isinstance(url, str):
        return HIDDEN if _SECRETIVE.search(url) else url
    return type(url)


class ConveyorError(Exception):
    """The base of every error that Conveyor raises."""


class InvalidOptionError(ConveyorError, ValueError):
    """An argument that cannot be used, found before anything was stored.

    `option` is its name, `value` what was given, `allowed` what is allowed.
    """

    def __init__(self, option: str, value: object, allowed: str) -> None:
        super().__init__(f"{option}={_shown(value)} cannot be used: {allowed}")
        self.option = option
        self.value = value
        self.allowed = allowed


class PayloadError(ConveyorError, ValueError):
    """Data that cannot be stored as JSON, or would come back changed; found before anything was stored.

    `path` leads to the offending value, as in `$.items[3].price`.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class UnserialisableResultError(ConveyorError, TypeError):
    """A handler's result cannot be stored, or is not of the worker's `result` type; it is not retried."""


class JobNotFoundError(ConveyorError, LookupError):
    """The job is not in the store: it never was, or it has been removed."""

    def __init__(self, queue: str, job_id: str) -> None:
        super().__init__(f"there is no job {job_id!r} in queue {queue!r}; it may have been removed")
        self.queue_name = queue
        self.job_id = job_id


class JobExistsError(ConveyorError, ValueError):
    """A job of a flow has a `job_id` that exists in its queue; nothing of the flow was added.

    `path` leads to that job in the flow, as in `children[1].children[0]`; it is empty for the first.
    """

    def __init__(self, queue: str, job_id: str, path: str) -> None:
        super().__init__(
            f"{path + ': ' if path else ''}job {job_id!r} exists in queue {queue!r}; nothing was added"
        )
        self.queue_name = queue
        self.job_id = job_id
        self.path = path


class ScheduleNotFoundError(ConveyorError, LookupError):
    """The queue has no schedule with this key: it never had, or it has been removed."""

    def __init__(self, queue: str, key: str) -> None:
        super().__init__(f"there is no schedule {key!r} in queue {queue!r}; it may have been removed")
        self.queue_name = queue
        self.key = key


class InvalidJobStateError(ConveyorError):
    """The job's state does not allow the call; nothing was changed.

    `expected` are the states in which it would; empty where the hint alone says what to do.
    """

    def __init__(self, job_id: str, state: JobState, expected: Sequence[JobState], hint: str = "") -> None:
        wanted = f", and must be {' or '.join(expected)}" if expected else ""
        super().__init__(f"job {job_id!r} is {state}{wanted}{'; ' + hint if hint else ''}")
        self.job_id = job_id
        self.state = state
        self.expected = tuple(expected)


class JobFailedError(ConveyorError):
    """The job that was waited for failed; `reason` and `error_type` say why."""

    def __init__(self, job_id: str, reason: str, error_type: str | None = None) -> None:
        super().__init__(f"job {job_id!r} failed: {error_type + ': ' if error_type else ''}{reason}")
        self.job_id = job_id
        self.reason = reason
        self.error_type = error_type


class JobCancelledError(ConveyorError):
    """The job that was waited for was cancelled."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id!r} was cancelled")
        self.job_id = job_id


class JobRemovedError(ConveyorError):
    """The job that was waited for was removed, so its outcome is not known."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id!r} was removed before its outcome could be read")
        self.job_id = job_id


class WaitTimeoutError(ConveyorError, TimeoutError):
    """The job that was waited for had not finished in time; it goes on."""

    def __init__(self, job_id: str, timeout: timedelta) -> None:
        super().__init__(f"job {job_id!r} had not finished after {timeout}; it goes on")
        self.job_id = job_id
        self.timeout = timeout


class JobTimeoutError(ConveyorError, TimeoutError):
    """A handler ran longer than its job's `timeout` and was cancelled."""


class BatchResultError(ConveyorError, ValueError):
    """The handler of a batch returned something else than None or a list with one result for each job.

    It fails the run of every job of the batch.
    """


class LeaseLostError(ConveyorError):
    """The writer no longer holds the job: its run has ended, or its lease ran out and another took over.

    Nothing was written. The handler that sees this, or what it has left behind, should stop.
    """

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"this run no longer holds job {job_id!r}: it has ended, or its lease was lost; nothing was "
            "written, and it should stop"
        )
        self.job_id = job_id


class WorkerClosedError(ConveyorError):
    """The worker has been closed, and runs no more jobs: make a new one."""

    def __init__(self, worker: str) -> None:
        super().__init__(f"worker {worker!r} is closed; make a new one")
        self.worker = worker


class GroupFullError(ConveyorError):
    """A group has as many waiting and delayed jobs as its `max_size` allows; nothing was added."""

    def __init__(self, queue: str, group: str, max_size: int) -> None:
        super().__init__(
            f"group {group!r} of queue {queue!r} has reached its max_size of {max_size}; add the job later"
        )
        self.queue_name = queue
        self.group = group
        self.max_size = max_size


class UnknownStoreError(ConveyorError, LookupError):
    """No installed store serves the URL's scheme, or the one that does cannot be imported."""


class StoreConflictError(ConveyorError):
    """Two installed distributions claim one URL scheme."""


class UnsupportedFeatureError(ConveyorError):
    """The store does not offer the feature that was asked for."""

    def __init__(self, store: str, feature: str) -> None:
        super().__init__(
            f"{store} does not offer {feature}; do without it, or use a store that declares "
            f"Feature.{feature.upper().replace('-', '_')}"
        )
        self.store = store
        self.feature = feature


class StoreError(ConveyorError):
    """The store could not do its work.

    `retryable`: the same call may succeed later. `outcome_unknown`: the call may or may not
    have happened (the line was cut after it was sent); repeating it is safe.

    One that is neither, and of no class below, is about what the call was given, as a text that a database's
    encoding does not have: the same is refused again, other calls are not. Workers fail the job concerned.
    """

    retryable: bool = False

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class StoreUnavailableError(StoreError):
    """The store cannot be reached now."""

    retryable = True


class StoreBusyError(StoreError):
    """Others kept the store locked for longer than `operation_timeout`."""

    retryable = True


class StoreFullError(StoreError):
    """There is no room left to write; it works again when there is."""

    retryable = True


class StoreReadOnlyError(StoreError):
    """The store cannot be written to (now); it works again when it can."""

    retryable = True


class StoreForkedError(StoreError):
    """The store was opened in another process: fork before opening one, or spawn processes instead."""


class StoreClosedError(StoreError):
    """The store is not open (on this event loop): use `async with`, or call `open()` first.

    And nothing after `close()`.
    """


class SchemaTooNewError(StoreError):
    """The data was written by a newer release of the store; nothing was touched."""


def _shown(value: object) -> str:
    """A short repr that cannot fail."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__ must not hide the real error
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."
