"""Opening the file: created for its owner only, in WAL mode, with the settings each connection needs."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

from conveyor.core.errors import StoreUnavailableError
from conveyor.store.sqlite.errors import busy_error, is_busy, store_error, store_error_of_system
from conveyor.store.sqlite.forking import refuse_inherited
from conveyor.store.sqlite.migrate import check, migrate
from conveyor.store.sqlite.options import Options

T = TypeVar("T")

#: How long SQLite itself waits for a lock, in seconds: long would keep urgent calls waiting.
_BUSY: Final = 0.02
#: Each connection's settings. Foreign keys and mmap are not used; `trusted_schema` keeps the schema of a file
#: that another user prepared from calling functions.
_SETTINGS: Final = (
    "pragma foreign_keys = off",
    "pragma trusted_schema = off",
    "pragma temp_store = memory",
    "pragma cache_size = -16384",
    "pragma wal_autocheckpoint = 4000",
    "pragma journal_size_limit = 67108864",
)
_SYNCHRONOUS: Final = {"FULL": "pragma synchronous = full", "NORMAL": "pragma synchronous = normal"}
#: While a file is made nothing in this process may have it open: closing it drops every lock on it that
#: the process holds.
_making: Final = threading.Lock()


def create_file(path: str, *, may_create: bool) -> None:
    """Make an empty file that only its owner may read, unless there is one; SQLite opens it after this."""
    file = Path(path)
    try:
        folder, found = _look(file.parent), _look(file)
        _look(Path(f"{path}-journal"))  # the longest name of what SQLite keeps beside it
        _refuse_planted_link(file)
    except OSError as error:
        raise StoreUnavailableError(
            f"{path} cannot be reached: {error.strerror}; correct the path, or the rights on its folders"
        ) from error
    if folder is None or not stat.S_ISDIR(folder.st_mode):
        raise StoreUnavailableError(f"there is no folder {file.parent}; create it, or correct the path")
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise StoreUnavailableError(f"{path} is a folder; give the path of a file in it")
    with _making:
        if found is not None:
            return
        if not may_create:
            raise StoreUnavailableError(
                f"there is no file {path}; open it once with auto_migrate=True to create it"
            )
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600))
        except FileExistsError:
            return
        except OSError as error:
            raise store_error_of_system(error, path) from error


def _look(path: Path) -> os.stat_result | None:
    """What there is at a path; None: nothing. Raises OSError where that cannot be found out."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _refuse_planted_link(file: Path) -> None:
    """In a folder where anybody may put a link, follow only one's own."""
    if not hasattr(os, "geteuid") or not file.is_symlink():
        return
    if file.parent.stat().st_mode & stat.S_IWOTH and file.lstat().st_uid != os.geteuid():
        raise StoreUnavailableError(
            f"{file} is a link that another user put into a folder open to all; remove it"
        )


def open_writer(path: str, options: Options) -> sqlite3.Connection:
    """The connection that writes; the tables are there after this.

    Raises a StoreError; SchemaTooNewError before anything was written.
    """
    refuse_inherited(path)
    create_file(path, may_create=options.auto_migrate)
    return _opened(path, options, _prepare_writer)


def open_reader(path: str, options: Options) -> sqlite3.Connection:
    """A connection that only reads, on a file that `open_writer` has prepared."""
    return _opened(path, options, _prepare_reader)


def retry_while_locked(path: str, options: Options, action: Callable[[], T]) -> T:
    """Do what may find the file locked, again and again until it does not, or `operation_timeout` is over."""
    deadline = time.monotonic() + options.operation_timeout.total_seconds()
    while True:
        try:
            return action()
        except sqlite3.Error as error:
            if not is_busy(error):
                raise
            if time.monotonic() >= deadline:
                raise busy_error(path) from error
        time.sleep(jitter())


def jitter() -> float:
    """How long to wait before trying a lock again, in seconds."""
    return random.uniform(0.001, 0.01)


def _opened(
    path: str, options: Options, prepare: Callable[[sqlite3.Connection, str, Options], None]
) -> sqlite3.Connection:
    try:
        # mode=rw: a file that has gone meanwhile is not quietly replaced by an empty one. The time-out comes
        # before all else: without it six processes that open a new file at once mostly fail.
        db = sqlite3.connect(
            f"file:{quote(os.fsencode(path))}?mode=rw",
            uri=True,
            timeout=_BUSY,
            isolation_level=None,
            cached_statements=512,
        )
    except sqlite3.Error as error:
        raise store_error(error, path) from error
    try:
        prepare(db, path, options)
    except sqlite3.Error as error:
        db.close()
        raise store_error(error, path) from error
    except BaseException:
        db.close()
        raise
    return db


def _prepare_writer(db: sqlite3.Connection, path: str, options: Options) -> None:
    outdated = retry_while_locked(path, options, lambda: check(db, path, may_migrate=options.auto_migrate))
    for setting in _SETTINGS:
        db.execute(setting)
    retry_while_locked(path, options, lambda: _use_wal(db, path))
    db.execute(_SYNCHRONOUS[options.synchronous])
    if outdated:
        retry_while_locked(path, options, lambda: db.execute("begin immediate"))
        try:
            migrate(db, path)
            db.execute("commit")
        finally:
            if db.in_transaction:
                db.execute("rollback")


def _prepare_reader(db: sqlite3.Connection, path: str, options: Options) -> None:
    for setting in (*_SETTINGS, "pragma query_only = on"):
        db.execute(setting)
    retry_while_locked(path, options, lambda: db.execute("select count(*) from sqlite_master").fetchone())


def _use_wal(db: sqlite3.Connection, path: str) -> None:
    """Switch to write-ahead logging, which the file remembers.

    The switch may answer "busy" whatever the time-out is.
    """
    if db.execute("pragma journal_mode").fetchone()[0] == "wal":
        return
    found = db.execute("pragma journal_mode = wal").fetchone()[0]
    if found != "wal":
        raise StoreUnavailableError(
            f"{path} cannot use write-ahead logging (SQLite answers {found!r}); keep it on a local disk"
        )
