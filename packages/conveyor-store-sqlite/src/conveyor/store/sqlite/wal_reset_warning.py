"""A warning, once in a process, about SQLite libraries that may damage a file shared by several processes.

In the versions from 3.7.0 to 3.51.2 two connections that write and checkpoint at the same moment may
reset the write-ahead log under each other, which loses commits (https://sqlite.org/wal.html#walresetbug).
It is rare, and there is nothing that a program can do about it but to use a library that has the correction.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import Final

log: Final = logging.getLogger("conveyor.store.sqlite")

_FIRST: Final = (3, 7, 0)
_LAST: Final = (3, 51, 2)
#: Corrections of older series.
_CORRECTED: Final = ((3, 44, 6), (3, 50, 7))
#: How often to look, in seconds.
_LOOK: Final = 1.0

_warned = False


def may_lose_commits(version: tuple[int, ...]) -> bool:
    """Whether this version of SQLite has the fault."""
    corrected = any(version[:2] == fixed[:2] and version >= fixed for fixed in _CORRECTED)
    return _FIRST <= version <= _LAST and not corrected


class WalResetWarning:
    """Notices that another process writes to the file: what this one's connection did not write, it did."""

    def __init__(self, path: str, *, version: tuple[int, ...] = sqlite3.sqlite_version_info) -> None:
        """Look, if this version of SQLite gives cause."""
        self._path = path
        self._concerned = may_lose_commits(version)
        self._looked = 0.0
        self._seen: int | None = None
        self._ours: tuple[int, int] | None = None

    def check(self, db: sqlite3.Connection, ours: tuple[int, int]) -> None:
        """Warn if another process has written.

        `ours` is how many stores this process has open on the file, and how many it has opened so far:
        another one of its own may have written, too, and be closed by now.
        """
        global _warned  # noqa: PLW0603 - once in a process
        now = time.monotonic()
        if _warned or not self._concerned or now - self._looked < _LOOK:
            return
        self._looked = now
        try:
            (seen,) = db.execute("pragma data_version").fetchone()
        except sqlite3.Error:  # what is wrong with the file shows soon enough
            return
        shared, self._seen = self._seen not in {None, seen}, seen
        alone, self._ours = ours == self._ours and ours[0] == 1, ours
        if shared and alone:
            _warned = True
            log.warning(
                "%s is used by several processes, and SQLite %s can lose commits then (rarely: the WAL-reset "
                "fault); use a Python with SQLite 3.51.3 or later, 3.50.7 or 3.44.6",
                self._path,
                sqlite3.sqlite_version,
            )
