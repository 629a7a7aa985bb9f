"""SQLite's errors as the store errors of the contract: the one place that knows its result codes."""

from __future__ import annotations

import errno
import sqlite3
from typing import Final

from conveyor.core.errors import (
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)

_PRIMARY: Final = 0xFF
_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def code_of(error: sqlite3.Error) -> int | None:
    """The primary result code; None for what the `sqlite3` module itself complains of."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection held a lock."""
    return code_of(error) in _BUSY


def is_undecodable(error: sqlite3.Error) -> bool:
    """Whether a text in the file is not UTF-8."""
    return str(error).startswith("Could not decode to UTF-8")


def busy_error(path: str) -> StoreBusyError:
    """Others kept the file locked."""
    return StoreBusyError(
        f"{path} was locked by others for longer than operation_timeout; "
        "look for another program in a transaction on it, or allow more time"
    )


def store_error(error: sqlite3.Error, path: str, *, committing: bool = False) -> StoreError:
    """The store error that says what happened, and what to do about it."""
    code = code_of(error)
    if code in _BUSY:
        return busy_error(path)
    # Once a commit has begun to reach the disk, nobody can say whether it is there after a crash.
    unknown = committing and code == sqlite3.SQLITE_IOERR
    kind, what = _MEANINGS.get(code, (StoreUnavailableError, "could not be used"))
    return kind(f"{path} {what} ({error})", outcome_unknown=unknown)


def store_error_of_system(error: OSError, path: str) -> StoreError:
    """The store error for a file that the operating system does not let be created."""
    kind, advice = _REASONS.get(error.errno, (StoreUnavailableError, "correct the path"))
    return kind(f"{path} cannot be created: {error.strerror}; {advice}")


_NOT_WRITABLE: Final = (StoreReadOnlyError, "make its folder writable")
_NO_ROOM: Final = (StoreFullError, "free some room")
_REASONS: Final[dict[int | None, tuple[type[StoreError], str]]] = {
    errno.EACCES: _NOT_WRITABLE,
    errno.EPERM: _NOT_WRITABLE,
    errno.EROFS: _NOT_WRITABLE,
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
}
#: A plain StoreError is about what the call was given: the same is refused again, and other calls are not.
_REFUSED: Final = (StoreError, "refuses what it was given")
_MEANINGS: Final[dict[int | None, tuple[type[StoreError], str]]] = {
    None: _REFUSED,
    sqlite3.SQLITE_TOOBIG: _REFUSED,
    sqlite3.SQLITE_CONSTRAINT: _REFUSED,
    sqlite3.SQLITE_MISMATCH: _REFUSED,
    sqlite3.SQLITE_RANGE: _REFUSED,
    sqlite3.SQLITE_FULL: (StoreFullError, "cannot be written to: there is no room left; free some"),
    sqlite3.SQLITE_READONLY: (
        StoreReadOnlyError,
        "cannot be written to; make the file, its folder and its file system writable",
    ),
    sqlite3.SQLITE_NOTADB: (
        StoreUnavailableError,
        "is not a SQLite database; give another path, or move it away",
    ),
    sqlite3.SQLITE_CORRUPT: (StoreUnavailableError, "is damaged; restore it from a backup"),
    sqlite3.SQLITE_CANTOPEN: (
        StoreUnavailableError,
        "cannot be opened; see that it and its folder are there and may be written to",
    ),
    sqlite3.SQLITE_IOERR: (StoreUnavailableError, "could not be read or written"),
    sqlite3.SQLITE_NOMEM: (StoreUnavailableError, "cannot be used now"),
    sqlite3.SQLITE_PERM: (StoreUnavailableError, "cannot be used now"),
    sqlite3.SQLITE_PROTOCOL: (StoreUnavailableError, "cannot be used now"),
}
