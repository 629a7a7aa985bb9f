"""A file that is read whole and replaced whole, by one at a time."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from conveyor.core.errors import StoreError, StoreFullError, StoreReadOnlyError, StoreUnavailableError
from conveyor_store_jsonfile.data import Data, dump, load

Answer = TypeVar("Answer")


class JsonFile:
    """One file. What is done to it blocks, and belongs in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = ""
        self._data = Data()

    def change(self, work: Callable[[Data], Answer]) -> Answer:
        """Do something to the data while nobody else does, and return what it returns.

        If it raises, or the process is killed, the file stays as it was.
        """
        with _errors(), self._locked():
            before = self._read()
            after = before.copy()
            answer = work(after)
            if after != before:
                self._replace(dump(after))
            return answer

    def _read(self) -> Data:
        """What the file holds. A text that was read before is not parsed again."""
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        if text != self._text:
            self._data, self._text = load(text), text
        return self._data

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The lock is on a file beside it: the file itself is another one after each change.
        lock = os.open(self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _replace(self, text: str) -> None:
        """Put a new file in the old one's place, safe from a loss of power when this returns."""
        new = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        new.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            raise StoreError(f"{self._path} may not survive a loss of power", outcome_unknown=True) from error
        finally:
            os.close(folder)


@contextmanager
def _errors() -> Iterator[None]:
    """Tell in the contract's words what the system says."""
    try:
        yield
    except OSError as error:
        kinds = {
            errno.ENOSPC: StoreFullError,
            errno.EROFS: StoreReadOnlyError,
            errno.EACCES: StoreReadOnlyError,
        }
        raise kinds.get(error.errno or 0, StoreUnavailableError)(str(error)) from error
