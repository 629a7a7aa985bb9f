"""Finding the store that a URL names."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import traceback
import types
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any

import pytest

from conveyor.core import (
    InstalledStore,
    InvalidOptionError,
    StoreConflictError,
    UnknownStoreError,
    discovery,
    installed_stores,
    open_store,
)
from conveyor.store.memory import MemoryStore


class Package(Distribution):
    """A distribution that is installed nowhere."""

    def __init__(self, name: str) -> None:
        self._text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n"

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        return Path(path)


def installed(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str, str]) -> None:
    """Let exactly these be installed: scheme, class path, distribution."""
    found = [
        EntryPoint(name=scheme, value=path, group=discovery.GROUP)._for(Package(name))  # type: ignore[attr-defined]
        for scheme, path, name in entries
    ]
    monkeypatch.setattr(discovery, "_entries", lambda: found)


class PrintedUrl:
    """As the objects that other libraries make of URLs."""

    def __repr__(self) -> str:
        return "PostgresDsn('postgresql://me:hunter2@host/db')"


def test_importing_core_leaves_reading_metadata_for_later() -> None:
    code = "import sys, conveyor.core; print('importlib.metadata' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


OURS = ("memory", "conveyor.store.memory:MemoryStore", "conveyor-store-memory")


async def test_a_url_opens_the_store_it_names() -> None:
    async with open_store("memory:") as store:
        assert type(store) is MemoryStore
    assert type(open_store("MEMORY://shared")) is MemoryStore


async def test_a_store_that_is_installed_while_the_program_runs_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnknownStoreError):
        open_store("later:")

    package = tmp_path / "later_store-1.2.3.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: later-store\nVersion: 1.2.3\n")
    (package / "entry_points.txt").write_text(
        "[conveyor.stores]\nlater = conveyor.store.memory:MemoryStore\n"
    )

    with pytest.raises(InvalidOptionError, match="write memory:"):  # as the memory store says, which it names
        open_store("later:")
    assert "later" in [store.scheme for store in installed_stores()]


def test_the_installed_stores_are_listed_with_who_brought_them(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, ("zeta", "zeta.store:Zeta", "zeta-store"), OURS)

    assert installed_stores() == [
        InstalledStore(
            scheme="memory",
            class_path="conveyor.store.memory:MemoryStore",
            distribution="conveyor-store-memory",
            version="1.2.3",
        ),
        InstalledStore(
            scheme="zeta", class_path="zeta.store:Zeta", distribution="zeta-store", version="1.2.3"
        ),
    ]


@pytest.mark.parametrize(
    ("scheme", "line"),
    [
        ("sqlite", "pip install conveyor-store-sqlite"),
        ("postgresql", "pip install conveyor-store-pg"),
        ("postgres", "pip install conveyor-store-pg"),
        ("redis", "install the package that provides it"),
    ],
)
def test_an_unknown_scheme_says_what_is_installed_and_what_to_install(
    monkeypatch: pytest.MonkeyPatch, scheme: str, line: str
) -> None:
    installed(monkeypatch, OURS)

    with pytest.raises(UnknownStoreError) as caught:
        open_store(f"{scheme}://user:hunter2@host/db?password=hunter3")

    assert f"{scheme}:" in str(caught.value)
    assert line in str(caught.value)
    assert "memory (conveyor-store-memory 1.2.3)" in str(caught.value)
    assert "hunter" not in str(caught.value)


def test_with_nothing_installed_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)

    with pytest.raises(UnknownStoreError, match="Installed: none"):
        open_store("sqlite:///jobs.db")


def test_two_packages_with_one_scheme_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, OURS, ("memory", "other:Store", "other-memory"))

    with pytest.raises(StoreConflictError) as caught:
        open_store("memory:")

    assert "conveyor-store-memory 1.2.3" in str(caught.value)
    assert "other-memory 1.2.3" in str(caught.value)
    assert len(installed_stores()) == 2


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_driver", "no_such_driver"),
        ("def broken(:", "SyntaxError"),
        ("raise RuntimeError('the driver is too old')", "too old"),
        ("", "Store"),
    ],
    ids=["import", "syntax", "raises", "no class"],
)
def test_a_store_that_cannot_be_imported_says_why_and_whose_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, reason: str
) -> None:
    module = f"broken_store_{abs(hash(source))}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    installed(monkeypatch, ("broken", f"{module}:Store", "broken-store"))

    with pytest.raises(UnknownStoreError) as caught:
        open_store("broken://host")

    assert reason in str(caught.value)
    assert "broken-store 1.2.3" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_package_that_hides_the_namespace_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    culprit = types.ModuleType("conveyor")
    culprit.__file__ = "/site-packages/conveyor/__init__.py"
    monkeypatch.setitem(sys.modules, "conveyor", culprit)
    installed(monkeypatch, ("sqlite", "conveyor.store.no_such_module:Store", "conveyor-store-sqlite"))

    for url in ("sqlite:///jobs.db", "redis:"):
        with pytest.raises(UnknownStoreError) as caught:
            open_store(url)
        assert "/site-packages/conveyor/__init__.py" in str(caught.value)
        assert "conveyor-py" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        b"postgresql://me:hunter2@host/db",
        PrintedUrl(),
        ["postgresql://me:hunter2@host/db"],
        "//me:hunter2",
        "//user:hunter2@host/db",
        "//user:hun/ter2@host/db",
        "//user:hunter2@@host/db",
        "host=db user=me password=hunter2",
        "postgresql//me:hunter2@host/db",
        "1postgresql://me:hunter2@host",
    ],
)
def test_a_password_is_never_shown(url: Any) -> None:
    options = {"password": "hunter2"}
    with pytest.raises((InvalidOptionError, UnknownStoreError)) as caught:
        open_store(url, **options)

    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "ter2" not in shown + repr(getattr(caught.value, "value", ""))
    assert caught.value.__cause__ is None


@pytest.mark.slow
def test_listing_the_stores_and_opening_one_imports_no_other() -> None:
    program = """
        import sys
        from conveyor.core import installed_stores, open_store
        assert "memory" in {store.scheme for store in installed_stores()}
        assert not [name for name in sys.modules if name.startswith("conveyor.store")]
        open_store("memory:")
        loaded = {name.split(".")[2] for name in sys.modules if name.startswith("conveyor.store.")}
        assert loaded == {"memory"}, loaded
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=30)
