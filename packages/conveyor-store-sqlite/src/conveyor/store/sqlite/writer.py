"""The thread that writes: calls that come together are committed together.

A commit costs the same for one call as for a hundred, so whatever has gathered while the previous one
was under way goes into the next: `BEGIN IMMEDIATE`, each call within a savepoint so that one that fails
fails alone, `COMMIT`. No call waits for others to join it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from conveyor.core.errors import StoreError, StoreUnavailableError
from conveyor.store.sqlite.connections import jitter
from conveyor.store.sqlite.errors import is_busy, store_error
from conveyor.store.sqlite.forking import identity, inside_sqlite
from conveyor.store.sqlite.threads import Answer, Call, ConnectionThread, deliver, log
from conveyor.store.sqlite.wal_reset_warning import WalResetWarning

#: The jobs of one commit, about: an urgent call that comes while it runs waits for some tens of milliseconds.
_WEIGHT: Final = 4_000
#: How often to look whether the file is still the one that was opened, in seconds.
_LOOK: Final = 1.0


class Outbox(Protocol):
    """What is to be written when there is nothing more urgent, and whom nobody waits for."""

    @property
    def waiting(self) -> bool:
        """Whether there is anything."""
        ...

    def wanted(self, db: sqlite3.Connection) -> bool:
        """Whether another process would read it; what is not wanted is dropped."""
        ...

    def write(self, db: sqlite3.Connection) -> None:
        """Write it."""
        ...

    def drop(self) -> None:
        """Drop it."""
        ...


class Writer(ConnectionThread):
    """The one thread of this process that writes to the file by this store."""

    def __init__(
        self, path: str, timeout: float, connect: Callable[[], sqlite3.Connection], outbox: Outbox
    ) -> None:
        """Prepare a thread that also writes what is in the outbox."""
        super().__init__(path, timeout, connect)
        self._outbox = outbox
        self._looked = 0.0
        self._file: tuple[int, int] | None = None
        self._wal_reset_warning = WalResetWarning(path)

    def wake(self) -> None:
        """Have the thread see to its outbox."""
        with self._ready:
            self._ready.notify()

    def _serve(self, db: sqlite3.Connection) -> None:
        while True:
            self._held = []
            with self._ready:
                while not self._has_calls and not self._outbox.waiting:
                    if self._stopping:
                        return
                    self._ready.wait()
            with inside_sqlite():
                if (self._has_calls or self._only_events(db)) and self._is_there() and self._begin(db):
                    self._batch(db)

    def _close(self, db: sqlite3.Connection) -> None:
        with suppress(sqlite3.Error):
            db.execute("pragma wal_checkpoint(truncate)").fetchone()
        db.close()

    def _only_events(self, db: sqlite3.Connection) -> bool:
        """Whether there is something to write although no call waits."""
        try:
            return self._outbox.wanted(db)
        except Exception as error:  # noqa: BLE001 - events are hints, and must stop nothing
            self._not_passed_on(error)
            self._outbox.drop()
            return False

    def _begin(self, db: sqlite3.Connection) -> bool:
        """Take the write lock; calls stay where they are, and may be cancelled, until it is had."""
        try:
            db.execute("begin immediate")
        except sqlite3.Error as error:
            if not is_busy(error):
                self._fail_all(store_error(error, self.path))
                return False
            self._give_up_late(error)
            if self._stopping and not self._has_calls:
                self._outbox.drop()
            time.sleep(jitter())
            return False
        return True

    def _batch(self, db: sqlite3.Connection) -> None:
        calls = self._take(_WEIGHT)
        if len(calls) == 1:
            answers = [self._alone(db, calls[0])]
        else:
            answers = [self._within_savepoint(db, call) for call in calls if db.in_transaction]
        if not db.in_transaction and len(calls) > 1:
            # The error of one call (no room, say) took the whole transaction with it: each for itself, then.
            for call in calls:
                self._by_itself(db, call)
            return
        if db.in_transaction:
            self._write_events(db)
            self._wal_reset_warning.check(db, self.ours)
        deliver(self._committed(db, answers))

    def _by_itself(self, db: sqlite3.Connection, call: Call) -> None:
        try:
            db.execute("begin immediate")
        except sqlite3.Error as error:
            deliver([Answer(call, error=store_error(error, self.path))])
            return
        deliver(self._committed(db, [self._alone(db, call)]))

    def _alone(self, db: sqlite3.Connection, call: Call) -> Answer:
        """Run the only call of a transaction, which is undone with it."""
        return self._answer(db, call, lambda: _begin_again(db))

    def _within_savepoint(self, db: sqlite3.Connection, call: Call) -> Answer:
        try:
            db.execute("savepoint conveyor_call")
            answer = self._answer(db, call, lambda: _undo(db))
            if db.in_transaction:
                db.execute("release conveyor_call")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                db.execute("rollback")
            return Answer(call, error=store_error(error, self.path))
        return answer

    def _committed(self, db: sqlite3.Connection, answers: list[Answer]) -> list[Answer]:
        """The answers, once what they say is safe; or the error that all of them met."""
        error: sqlite3.Error | None = None
        deadline = time.monotonic() + self._timeout
        while db.in_transaction:
            try:
                db.execute("commit")
            except sqlite3.Error as failure:
                if is_busy(failure) and time.monotonic() < deadline:
                    time.sleep(jitter())
                    continue
                error = failure
                if db.in_transaction:
                    with suppress(sqlite3.Error):
                        db.execute("rollback")
                break
        if error is None:
            return answers
        failed = store_error(error, self.path, committing=True)
        failed.__cause__ = error
        return [answer if answer.error else Answer(answer.call, error=failed) for answer in answers]

    def _write_events(self, db: sqlite3.Connection) -> None:
        if not self._outbox.waiting:
            return
        try:
            if self._outbox.wanted(db):
                db.execute("savepoint conveyor_call")
                self._outbox.write(db)
                db.execute("release conveyor_call")
        except Exception as error:  # noqa: BLE001 - events are hints, and must not undo the calls before them
            self._not_passed_on(error)
            self._outbox.drop()
            with suppress(sqlite3.Error):
                _undo(db)

    def _not_passed_on(self, error: Exception) -> None:
        if isinstance(error, sqlite3.Error):
            log.debug("events of %s are not passed on", self.path, exc_info=error)
        else:
            self._log_once("events of %s are not passed on", error)

    def _fail_all(self, error: StoreError) -> None:
        super()._fail_all(error)
        self._outbox.drop()  # only hints; nobody asked for them, so nobody would say when to try again

    def _is_there(self) -> bool:
        """Whether the file is still the one that was opened; what is written to a deleted one is lost."""
        now = time.monotonic()
        if self._file is not None and now - self._looked < _LOOK:
            return True
        found = identity(self.path)
        self._looked = now
        self._file = self._file or found
        if found is None or found != self._file:
            self._looked = 0.0
            self._fail_all(
                StoreUnavailableError(
                    f"{self.path} was removed or replaced; put it back, or close and open the store"
                )
            )
            return False
        return True


def _undo(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("rollback to conveyor_call")


def _begin_again(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("rollback")
    db.execute("begin immediate")
