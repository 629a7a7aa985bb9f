"""Finding the store that a URL names, among the installed ones.

Stores are entry points of the group `conveyor.stores`, named by their URL schemes. Only the one
that is asked for is ever imported.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from conveyor.core.errors import InvalidOptionError, StoreConflictError, UnknownStoreError, showable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

    from conveyor.core.store import Store

GROUP: Final = "conveyor.stores"

#: What to install for our own schemes. Only for messages.
_OURS: Final = {
    "memory": "conveyor-store-memory",
    "sqlite": "conveyor-store-sqlite",
    "postgresql": "conveyor-store-pg",
    "postgres": "conveyor-store-pg",
}
_SCHEME: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledStore:
    """A store that is installed: its URL scheme, its class, and who brought it."""

    scheme: str
    class_path: str
    distribution: str
    version: str


def installed_stores() -> list[InstalledStore]:
    """Every installed store, by scheme; none of them is imported."""
    _scan.cache_clear()
    return sorted((_described(entry) for entry in _entries()), key=lambda s: (s.scheme, s.distribution))


def open_store(url: str, **options: Any) -> Store:
    """The store of a URL, to be opened by `async with` (or `await store.open()`).

    `options` are the store's own. Raises InvalidOptionError for a URL or an option that cannot be used,
    UnknownStoreError if no installed store serves the scheme, StoreConflictError if several do.
    """
    match = _SCHEME.match(url) if isinstance(url, str) else None
    if match is None:
        raise InvalidOptionError(
            "url",
            showable(url),
            'a store URL begins with a scheme, as "memory:", "sqlite:///jobs.db" or "postgresql://…"',
        )
    scheme = match[1].lower()
    store = _loaded(_only(scheme, _entries_of(scheme)))
    return cast("Store", store.from_url(scheme + url[match.end(1) :], **options))


def _entries_of(scheme: str) -> list[EntryPoint]:
    found = [entry for entry in _entries() if entry.name.lower() == scheme]
    if not found:  # it may have been installed since
        _scan.cache_clear()
        found = [entry for entry in _entries() if entry.name.lower() == scheme]
    return found


def _entries() -> Iterable[EntryPoint]:
    return _scan(tuple(sys.path))


@cache
def _scan(_path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Read the metadata of every distribution on that path: 8 ms beside 50 of them."""
    # Not at the top: it is 4 % of what importing conveyor.core costs, and only a store's URL needs it. Pinned
    # by test_importing_core_leaves_reading_metadata_for_later.
    from importlib.metadata import entry_points  # noqa: PLC0415

    return tuple(entry_points(group=GROUP))


def _only(scheme: str, found: list[EntryPoint]) -> EntryPoint:
    if not found:
        installed = ", ".join(f"{s.scheme} ({s.distribution} {s.version})" for s in installed_stores())
        advice = f"pip install {_OURS[scheme]}" if scheme in _OURS else "install the package that provides it"
        msg = (
            f"no installed store serves {scheme}: URLs: {advice}. Installed: {installed or 'none'}{_hidden()}"
        )
        raise UnknownStoreError(msg)
    if len(found) > 1:
        claims = " and ".join(f"{s.distribution} {s.version}" for s in map(_described, found))
        msg = f"{claims} both claim {scheme}: URLs; uninstall all but one of them"
        raise StoreConflictError(msg)
    return found[0]


def _loaded(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:
        store = _described(entry)
        msg = (
            f"the store for {store.scheme}: URLs ({store.class_path}, "
            f"from {store.distribution} {store.version}) "
            f"cannot be imported: {type(error).__name__}: {error}{_hidden()}"
        )
        raise UnknownStoreError(msg) from error


def _described(entry: EntryPoint) -> InstalledStore:
    return InstalledStore(
        scheme=entry.name.lower(),
        class_path=entry.value,
        distribution="?" if entry.dist is None else entry.dist.name,
        version="?" if entry.dist is None else entry.dist.version,
    )


def _hidden() -> str:
    """What to say when another distribution's `conveyor/__init__.py` hides our namespace.

    `conveyor-py` and `conveyor-streaming` ship one.
    """
    file = getattr(sys.modules.get("conveyor"), "__file__", None)
    if file is None:
        return ""
    return (
        f". Another package hides part of the conveyor namespace with {file}: find it with "
        "'pip list' (conveyor-py and conveyor-streaming do so) and uninstall it"
    )
