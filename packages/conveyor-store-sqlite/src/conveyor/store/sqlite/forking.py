"""Connections in forked processes: neither used nor closed there, nor replaced by others on the file.

SQLite keeps the locks that a process has on a file in memory of its own, which a child inherits while the
locks themselves stay with the parent. A child that opened the file again would believe that it holds
locks that it does not, and could lose commits (https://sqlite.org/howtocorrupt.html, 2.6).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from conveyor.core.errors import StoreForkedError

#: The connections that are open, and their files.
_held: Final[dict[int, tuple[sqlite3.Connection, str]]] = {}
#: Those of the parent, and the identities of their files.
_inherited: Final[list[sqlite3.Connection]] = []
_files: Final[set[tuple[int, int]]] = set()


def hold(db: sqlite3.Connection, path: str) -> None:
    """Know that a connection is open."""
    _held[id(db)] = db, path


def let_go(db: sqlite3.Connection) -> None:
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


def _after_fork() -> None:
    """In a child: keep the parent's connections from being closed when the child ends."""
    import ctypes  # noqa: PLC0415 - only a forked child needs it

    for db, path in _held.values():
        _inherited.append(db)
        file = identity(path)
        if file is not None:
            _files.add(file)
        with suppress(AttributeError):  # other Pythons than CPython do not count references
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
