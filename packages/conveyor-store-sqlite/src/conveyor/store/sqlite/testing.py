"""What the conformance suite needs to test this store: fresh, empty ones, each a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from shutil import copy
from typing import Final, Protocol
from urllib.parse import quote

from conveyor.store.sqlite.connections import open_writer
from conveyor.store.sqlite.options import Options


class Context(Protocol):
    """What the suite tells about the run."""

    @property
    def url(self) -> str | None:
        """The URL that the user gave, if any; "{tmp}" and "{n}" in it are filled in."""
        ...

    @property
    def worker(self) -> str:
        """The name of this process among those that share the run."""
        ...

    @property
    def tmp_path(self) -> Path:
        """A folder for this process."""
        ...

    @property
    def shared_path(self) -> Path:
        """A folder for all processes of the run."""
        ...


_OPTIONS: Final = Options.checked(
    synchronous="NORMAL", operation_timeout="10s", auto_migrate=True, poll_interval="50ms"
)


@contextmanager
def provision(context: Context) -> Iterator[Callable[[], AbstractContextManager[str]]]:
    """Give a function that makes fresh stores: each call gives the URL of an empty one."""
    numbers = count()
    # The tables are made once and copied: to make them takes three times as long as to open such a file.
    template = context.tmp_path / f"{context.worker}-template.db"
    open_writer(str(template), _OPTIONS).close()

    @contextmanager
    def fresh() -> Iterator[str]:
        path = context.tmp_path / f"{context.worker}-{next(numbers)}.db"
        copy(template, path)
        yield f"sqlite:///{quote(str(path.absolute()))}?synchronous=NORMAL"
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    yield fresh
