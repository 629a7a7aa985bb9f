"""Processes with one deliberate bug each, in what concerns signals, forks, threads and the event loop itself.

The tests that catch these are our packages' own, and some of them start programs: so a bug is put in when an
interpreter starts. This module is run by itself there, before anything else, and imports neither pytest nor
the other bugs.
"""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from conveyor.core._engine import loop_lag, os_signals
from conveyor.core._engine.error_backoff import ErrorBackoff
from conveyor.core.errors import StoreError
from conveyor.store.sqlite.threads import ConnectionThread

PutIn = Callable[[], None]


@dataclass(frozen=True)
class ProcessBug:
    """What puts a bug into a process that starts, and the test that fails: its file and its name."""

    put_in: PutIn
    file: str
    test: str

    def __str__(self) -> str:
        return self.put_in.__name__


PROCESS_BUGS: list[ProcessBug] = []


def caught_by(package: str, file: str, test: str) -> Callable[[PutIn], PutIn]:
    """Say which test of which package catches a bug."""

    def decorate(put_in: PutIn) -> PutIn:
        PROCESS_BUGS.append(ProcessBug(put_in, f"packages/{package}/tests/{file}", test))
        return put_in

    return decorate


def put(owner: object, name: str, value: object) -> None:
    """Put a broken part in the place of another."""
    setattr(owner, name, value)


@caught_by("conveyor-store-sqlite", "test_sqlite_threads.py", "test_the_writer_goes_on")
def the_writer_ends_at_the_unexpected() -> None:
    """The thread that writes goes on after SQLite's own errors, and after no others."""

    def serve(thread: Any, db: sqlite3.Connection) -> None:
        thread._serve(db)

    put(ConnectionThread, "_serve_despite_errors", serve)


@caught_by("conveyor-core", "test_core_background.py", "test_a_part_of_a_worker_goes_on")
def a_part_of_a_worker_ends_at_the_unexpected() -> None:
    """A background service of a worker goes on after errors of the store, and after no others."""
    real = ErrorBackoff.failed

    def failed(self: ErrorBackoff, error: Exception) -> float:
        if not isinstance(error, StoreError):
            raise error
        return real(self, error)

    put(ErrorBackoff, "failed", failed)


@caught_by(
    "conveyor-core", "test_core_signals.py", "test_a_handler_may_have_processes_and_its_worker_goes_on"
)
def forked_children_keep_their_parents_handlers() -> None:
    """A forked child does not end by the signals that its parent handles."""
    put(os_signals._Handlers, "leave_to_parent", lambda _: None)


@caught_by(
    "conveyor-core",
    "test_core_signals.py",
    "test_beside_handlers_of_the_loop_forked_children_are_told_nothing_either",
)
def forked_children_keep_the_wake_up_descriptor() -> None:
    """What a forked child writes to be woken by a signal arrives in its parent."""
    kept = {**vars(signal), "set_wakeup_fd": lambda _: None}
    put(os_signals, "signal", SimpleNamespace(**kept))


@caught_by("conveyor-core", "test_core_signals.py", "test_who_had_a_signal_before_gets_it_too")
def the_servers_signals_are_taken() -> None:
    """Nobody else gets a signal while a worker runs."""
    put(os_signals, "_is_runners", lambda _: True)


@caught_by(
    "conveyor-core", "test_core_worker.py", "test_the_length_of_a_block_is_right_to_a_quarter_of_a_second"
)
def blocks_are_looked_for_every_ten_seconds() -> None:
    """A block is reported as shorter than it was by up to ten seconds, or not at all."""
    put(loop_lag, "_EVERY", 10.0)


@caught_by("conveyor-core", "test_core_worker.py", "test_a_job_that_blocked_the_loop_and_ended_is_named")
def only_what_still_runs_has_blocked_the_loop() -> None:
    """A job that blocked the event loop and has ended since is not named."""
    put(loop_lag.LagWatch, "end", lambda *_: None)
