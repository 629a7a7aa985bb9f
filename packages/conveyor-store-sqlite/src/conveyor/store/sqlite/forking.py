"""Connections in forked processes: neither used nor closed there, nor replaced by others on the file.

SQLite keeps the locks that a process has on a file in memory of its own, which a child inherits while the
locks themselves stay with the parent. A child that opened the file again would believe that it holds
locks that it does not, and could lose commits (https://sqlite.org/howtocorrupt.html, 2.6).

Nor may a fork happen while a thread is inside SQLite: the child would inherit SQLite's own locks as that
thread held them, and hang at the first file it opens, whichever that is.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from conveyor.core.errors import StoreForkedError

#: The connections that are open, and their files.
_held: Final[dict[int, tuple[sqlite3.Connection, str]]] = {}
#: Those of the parent, and the identities of their files.
_inherited: Final[list[sqlite3.Connection]] = []
_files: Final[set[tuple[int, int]]] = set()


@contextmanager
def inside_sqlite() -> Iterator[None]:
    """While inside, no fork happens; a fork that is due goes first."""
    _fork_lock.enter()
    try:
        yield
    finally:
        _fork_lock.leave()


def register(db: sqlite3.Connection, path: str) -> None:
    """Know that a connection is open."""
    _held[id(db)] = db, path


def unregister(db: sqlite3.Connection) -> None:
    """Know that a connection was closed."""
    del _held[id(db)]


def refuse_inherited(path: str) -> None:
    """Raise StoreForkedError if the file was open in the process that this one was forked from."""
    if _files and identity(path) in _files:
        raise StoreForkedError(
            f"{path} was open when this process was forked, so SQLite cannot use it safely here; "
            "fork before opening a store, or start processes by spawning them"
        )


def identity(path: str) -> tuple[int, int] | None:
    """What tells one file from another; None: there is none."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _ForkLock:
    """Lets threads into SQLite, except while a fork is due; lets a fork happen when nobody is inside."""

    #: How long a fork waits for the threads to come out, in seconds.
    TIMEOUT: Final = 10.0

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._forking = False

    def enter(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._forking)
            self._inside += 1

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._forking = True
            self._changed.wait_for(lambda: not self._inside, self.TIMEOUT)

    def reopen(self) -> None:
        with self._changed:
            self._forking = False
            self._changed.notify_all()

    def reset(self) -> None:
        # The threads of the parent are not there any more, and nor is what they waited for.
        self.__init__()  # type: ignore[misc]


_fork_lock: Final = _ForkLock()


def _after_fork() -> None:
    """In a child: keep the parent's connections from being closed when the child ends."""
    import ctypes  # noqa: PLC0415 - only a forked child needs it

    _fork_lock.reset()
    for db, path in _held.values():
        _inherited.append(db)
        file = identity(path)
        if file is not None:
            _files.add(file)
        with suppress(AttributeError):  # other Pythons than CPython do not count references
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_fork_lock.close, after_in_parent=_fork_lock.reopen, after_in_child=_after_fork
    )
