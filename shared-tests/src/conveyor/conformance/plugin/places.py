"""Where the stores under test are made: a provisioner for each scheme, and a fresh store for each test."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import pytest

from conveyor.conformance.plugin.options import provisioner_of, schemes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What a `conveyor.testing` entry point gives for a `Place`: each call is the URL of one more fresh store.
Fresh = "Callable[[], AbstractContextManager[str]]"
#: A file system in memory, as Linux has one, and the bytes that must be free there: a container may have few.
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - what is made there has a name that nobody guesses
_ROOM: Final = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a `conveyor.testing` provisioner makes its stores.

    `url` is the `--conveyor-url` given, if any; `worker` this process's name in the run; `owner` the id of
    the process whose end is the end of the run; `tmp_path` a folder for this process, in memory if there is
    room, and `shared_path` one for all processes of the run.
    """

    url: str | None
    worker: str
    owner: int
    tmp_path: Path
    shared_path: Path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of the contract once for each store that was asked for."""
    if "conveyor_scheme" not in metafunc.fixturenames or getattr(
        metafunc.cls, "store_is_made_by_hand", False
    ):
        return
    own: str | None = getattr(metafunc.cls, "store_scheme", None)
    schemes = [own] if own else schemes_of(metafunc.config)
    if not schemes:  # an empty parameter set would be skipped, and look like a pass
        raise pytest.UsageError(
            "which store? Pass --conveyor-store SCHEME (or 'all'), or give the class a `store` fixture"
        )
    metafunc.parametrize("conveyor_scheme", schemes, scope="session")


@dataclass
class Places:
    """One running provisioner for each scheme, for the life of this process."""

    config: pytest.Config
    factory: pytest.TempPathFactory
    stack: ExitStack = field(default_factory=ExitStack)
    fresh: dict[str, Callable[[], AbstractContextManager[str]]] = field(default_factory=dict)

    def of(self, scheme: str) -> Callable[[], AbstractContextManager[str]]:
        """What gives the URLs of fresh stores of a scheme."""
        if scheme not in self.fresh:
            self.fresh[scheme] = self._start(scheme)
        return self.fresh[scheme]

    def _start(self, scheme: str) -> Callable[[], AbstractContextManager[str]]:
        worker: str = getattr(self.config, "workerinput", {}).get("workerid", "main")
        base = self.factory.getbasetemp()
        place = Place(
            url=self.config.getoption("--conveyor-url"),
            worker=worker,
            owner=os.getpid() if worker == "main" else os.getppid(),  # xdist's controller starts its workers
            tmp_path=self._folder(scheme),
            shared_path=base if worker == "main" else base.parent,
        )
        if place.url is not None and scheme in schemes_of(self.config):
            return _from_template(place.url, place)
        found = provisioner_of(scheme)
        if found is None:
            raise pytest.UsageError(f"no installed package tells how to make a store of {scheme!r}")
        fresh: Callable[[], AbstractContextManager[str]] = self.stack.enter_context(found.load()(place))
        return fresh

    def _folder(self, scheme: str) -> Path:
        """A folder in memory, where a store that syncs its files need not wait; else on the disk."""
        if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and disk_usage(_MEMORY).free > _ROOM:
            return Path(self.stack.enter_context(TemporaryDirectory(prefix="conveyor-", dir=_MEMORY)))
        return self.factory.mktemp(f"conveyor-{scheme}")


def _from_template(template: str, place: Place) -> Callable[[], AbstractContextManager[str]]:
    count = iter(range(1_000_000))

    @contextmanager
    def fresh() -> Iterator[str]:
        yield template.format(worker=place.worker, tmp=place.tmp_path, n=next(count))

    return fresh


@pytest.fixture(scope="session")
def conveyor_places(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Places]:
    """One running provisioner for each scheme."""
    places = Places(pytestconfig, tmp_path_factory)
    with places.stack:
        yield places


@pytest.fixture(scope="session")
def conveyor_scheme() -> str | None:
    """The scheme of the store under test; None for a store that is made by hand."""
    return None


@pytest.fixture
def conveyor_url(conveyor_scheme: str | None, conveyor_places: Places) -> Iterator[str | None]:
    """The URL of a fresh, empty store of that scheme."""
    if conveyor_scheme is None:
        yield None
        return
    with conveyor_places.of(conveyor_scheme)() as url:
        yield url
