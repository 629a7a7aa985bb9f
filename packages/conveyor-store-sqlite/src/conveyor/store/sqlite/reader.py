"""The thread that reads: each call sees one state of the file, and holds it only briefly.

A read that stays open keeps the write-ahead log from being emptied, so long sets are read in pages.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from conveyor.store.sqlite.connections import jitter
from conveyor.store.sqlite.errors import is_busy, store_error
from conveyor.store.sqlite.forking import inside_sqlite
from conveyor.store.sqlite.threads import Answer, Call, ConnectionThread, deliver


class Watch(Protocol):
    """What looks at the file from time to time, between the calls."""

    @property
    def interval(self) -> float | None:
        """How often to look, in seconds; None: not now."""
        ...

    def look(self, db: sqlite3.Connection) -> None:
        """Look."""
        ...


class Reader(ConnectionThread):
    """The one thread of this process that reads the file by this store."""

    def __init__(
        self, path: str, timeout: float, connect: Callable[[], sqlite3.Connection], watch: Watch
    ) -> None:
        """Prepare a thread that also looks at the file for `watch`."""
        super().__init__(path, timeout, connect)
        self._watch = watch

    def wake(self) -> None:
        """Have the thread ask the watch how often to look."""
        with self._ready:
            self._ready.notify()

    def _serve(self, db: sqlite3.Connection) -> None:
        look_at = time.monotonic()
        while True:
            self._held = []
            interval = self._watch.interval
            with self._ready:
                if not self._has_calls and not self._stopping:
                    self._ready.wait(None if interval is None else max(0.0, look_at - time.monotonic()))
                if self._stopping and not self._has_calls:
                    return
            for call in self._take(1):
                with inside_sqlite():
                    answer = self._read(db, call)
                deliver([answer])
            if interval is not None and time.monotonic() >= look_at:
                self._look(db)
                look_at = time.monotonic() + interval

    def _look(self, db: sqlite3.Connection) -> None:
        try:
            with inside_sqlite():
                self._watch.look(db)
        except Exception as error:  # noqa: BLE001 - events are hints, and must not stop those who read
            self._log_once("events of other processes cannot be read from %s", error)

    def _read(self, db: sqlite3.Connection, call: Call) -> Answer:
        while True:
            try:
                db.execute("begin deferred")  # it only reads, so it cannot meet another writer
                break
            except sqlite3.Error as error:
                if not is_busy(error) or time.monotonic() >= call.deadline:
                    return Answer(call, error=store_error(error, self.path))
            time.sleep(jitter())
        try:
            return self._answer(db, call, lambda: None)
        finally:
            with suppress(sqlite3.Error):  # there is nothing to lose
                db.execute("commit")
