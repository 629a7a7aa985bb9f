"""What a user may say about a store: its path and its options, as keywords or in a URL."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from conveyor.core.durations import duration
from conveyor.core.errors import InvalidOptionError, showable
from conveyor.store.sql import checked_flag, refuse_unknown

_SCHEME: Final = "sqlite"
_URL: Final = "write sqlite:///relative/jobs.db or sqlite:////absolute/jobs.db"
_SYNCHRONOUS: Final = ("FULL", "NORMAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a store, checked.

    `synchronous`: "FULL" (a committed job survives a loss of power) or "NORMAL" (the last ones may not;
    nothing else is at risk). `operation_timeout`: how long a call waits for a lock that others hold.
    `auto_migrate`: whether `open()` may create or upgrade the tables. `poll_interval`: how often to look
    for other processes' events while this process listens.
    """

    synchronous: str
    operation_timeout: timedelta
    auto_migrate: bool
    poll_interval: timedelta

    @classmethod
    def checked(
        cls, *, synchronous: object, operation_timeout: object, auto_migrate: object, poll_interval: object
    ) -> Options:
        """The options as given; raises InvalidOptionError for one that cannot be used."""
        mode = synchronous.upper() if isinstance(synchronous, str) else None
        if mode not in _SYNCHRONOUS:
            raise InvalidOptionError("synchronous", synchronous, 'give "FULL" or "NORMAL"')
        return cls(
            synchronous=mode,
            operation_timeout=duration(operation_timeout, "operation_timeout", zero=False),
            auto_migrate=checked_flag("auto_migrate", auto_migrate),
            poll_interval=duration(poll_interval, "poll_interval", zero=False),
        )


_NAMES: Final = tuple(field.name for field in fields(Options))


def parsed(url: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The path and the options of a URL, with `options` going before those that it carries.

    Raises InvalidOptionError for a URL without a usable path, and for an option that does not exist.
    """
    shown = showable(url)
    parts = _split(url) if isinstance(url, str) else None
    # Outside of any `except`, so that the parser's own words are in no traceback: they quote the URL.
    if parts is None:
        raise InvalidOptionError("url", shown, f"it is not a valid URL; {_URL}")
    if parts.scheme != _SCHEME or not url[len(_SCHEME) :].startswith("://"):
        raise InvalidOptionError("url", shown, _URL)
    if parts.netloc:
        raise InvalidOptionError(
            "url", shown, f"a file has no host, so there are three slashes or four: {_URL}"
        )
    if parts.fragment:
        raise InvalidOptionError("url", shown, "it has a fragment; write # as %23 in a path")
    query = parse_qsl(parts.query, keep_blank_values=True)
    refuse_unknown(_SCHEME, _NAMES, options, query)
    found = dict(options)
    for name, value in query:
        found.setdefault(name, value)
    return checked_path(unquote(parts.path.removeprefix("/"), errors="surrogateescape"), "url", shown), found


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:
        return None


def checked_path(given: str | os.PathLike[str], option: str = "path", value: object = None) -> str:
    """The absolute path of a database file; raises InvalidOptionError for what cannot be one."""
    value = given if value is None else value
    if not isinstance(given, (str, os.PathLike)):
        raise InvalidOptionError(option, value, "give the path of a file, as text or as a pathlib.Path")
    path = os.fspath(given)
    if not isinstance(path, str) or not path:
        raise InvalidOptionError(option, value, f"there is no path; {_URL}")
    if "\0" in path:
        raise InvalidOptionError(option, value, "a path cannot contain NUL")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise InvalidOptionError(option, value, "it has characters that no file name can have") from None
    if path == ":memory:" or path.startswith("file:"):
        raise InvalidOptionError(
            option,
            value,
            'this store keeps a file, by its path; for jobs in memory use the memory store ("memory:")',
        )
    if path.endswith(("/", os.sep)):
        raise InvalidOptionError(option, value, "it names a folder; add the name of the file")
    try:
        return str(Path(path).absolute())
    except FileNotFoundError:
        allowed = "it is relative, and the current folder is gone; give an absolute path"
        raise InvalidOptionError(option, value, allowed) from None
