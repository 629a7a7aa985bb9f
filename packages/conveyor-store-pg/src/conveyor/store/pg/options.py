"""What a user may say about a store: its database and its options, as keywords or in a URL."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, quote

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool

from conveyor.core.durations import duration
from conveyor.core.errors import HIDDEN, InvalidOptionError
from conveyor.store.sql import checked_flag, refuse_unknown, shown_name

#: The options of the store, as they may stand in a URL; everything else there is libpq's.
NAMES: Final = (
    "schema",
    "pool_size",
    "operation_timeout",
    "auto_migrate",
    "notify",
    "listen_dsn",
    "prepare",
)
_URL: Final = re.compile(r"postgres(?:ql)?://", re.IGNORECASE)
_DSN: Final = 'write postgresql://user@host:5432/database, or "host=... dbname=..."'
_QUOTE: Final = "an @ in a user name or a password is written %40 in a URL"
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_SCHEMA: Final = re.compile(r"[\w$ .-]+")
_LONGEST_SCHEMA: Final = 63
_MOST_CONNECTIONS: Final = 1_000


class Target:
    """Where a database is and how to log in there; shows everything but secrets."""

    __slots__ = ("_parameters", "place")

    def __init__(self, parameters: Mapping[str, Any], place: str | None = None) -> None:
        """Take the parameters that libpq knows."""
        self._parameters: Final = dict(parameters)
        #: Host, port and database, for people to read.
        self.place: Final = place or _place(self._parameters)

    @classmethod
    def parsed(cls, dsn: object, option: str) -> Target:
        """The target of a DSN; raises InvalidOptionError, which shows nothing of it, if there is none."""
        if not isinstance(dsn, str) or not dsn.strip():
            raise InvalidOptionError(option, type(dsn) if not isinstance(dsn, str) else HIDDEN, _DSN)
        if _URL.match(dsn):
            query = _split(dsn, option)[1]
            for name, _ in query:
                if name in NAMES:
                    raise InvalidOptionError(option, HIDDEN, f"{name} is for the store: give it as a keyword")
                _known(name, query)
        found = _parsed(dsn)
        # Outside of any `except`, so that the parser's own words are in no traceback: they quote the DSN.
        if found is None:
            raise InvalidOptionError(
                option, HIDDEN, f"it is not a valid DSN (not shown: it may hold a password); {_DSN}"
            )
        return cls(found)

    @classmethod
    def of_pool(cls, pool: AsyncConnectionPool[Any]) -> Target:
        """Where the connections of a pool lead, as far as one can say before there is one."""
        given = pool.kwargs if isinstance(pool.kwargs, dict) else {}
        found = _parsed(pool.conninfo) if isinstance(pool.conninfo, str) else None
        names = {"host", "hostaddr", "port", "dbname", "password"} & given.keys()
        parameters = (found or {}) | {name: given[name] for name in names}
        return cls(parameters, f"{_place(parameters)} (by the pool {pool.name!r})")

    @property
    def parameters(self) -> dict[str, Any]:
        """What to connect with, secrets included."""
        return dict(self._parameters)

    @property
    def several(self) -> bool:
        """Whether it names more than one host."""
        return "," in str(self._parameters.get("host") or self._parameters.get("hostaddr") or "")

    def clean(self, text: str) -> str:
        """The text without any secret of this target."""
        for name in ("password", "sslpassword", "oauth_client_secret"):
            secret = self._parameters.get(name)
            if secret:
                text = text.replace(str(secret), "***").replace(quote(str(secret), safe=""), "***")
        return text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.place!r})"

    def __reduce__(self) -> Any:
        msg = "where a database is cannot be pickled: there may be a password in it"
        raise TypeError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a store, checked.

    `pool`: one of the application's; None: one of our own. `schema`: where the tables are. `pool_size`: how
    many connections there may be, beside the one that listens. `operation_timeout`: how long a call tries.
    `auto_migrate`: whether `open()` may create or upgrade the tables. `notify`: whether events travel between
    processes. `listen`: where to listen; None: where the connections of `pool` lead. `prepare`: whether
    statements are prepared on the server; None: unless a connection pooler is in between, or the pool is the
    application's.
    """

    target: Target
    pool: AsyncConnectionPool[Any] | None
    schema: str
    pool_size: int
    operation_timeout: timedelta
    auto_migrate: bool
    notify: bool
    listen: Target | None
    prepare: bool | None

    @classmethod
    def checked(
        cls,
        dsn: object = None,
        *,
        pool: object = None,
        schema: object = "public",
        pool_size: object = 10,
        operation_timeout: object = "10s",
        auto_migrate: object = True,
        notify: object = True,
        listen_dsn: object = None,
        prepare: object = "auto",
    ) -> Options:
        """The options as given; raises InvalidOptionError for one that cannot be used."""
        given = _pool(pool, dsn)
        target = Target.parsed(dsn, "dsn") if given is None else Target.of_pool(given)
        size = _size(pool_size)
        return cls(
            target=target,
            pool=given,
            schema=_schema(schema),
            pool_size=min(size, given.max_size or size) if given is not None else size,
            operation_timeout=duration(operation_timeout, "operation_timeout", zero=False),
            auto_migrate=checked_flag("auto_migrate", auto_migrate),
            notify=checked_flag("notify", notify),
            listen=(
                Target.parsed(listen_dsn, "listen_dsn")
                if listen_dsn is not None
                else (target if given is None else None)
            ),
            prepare=None if prepare in ("auto", None) else checked_flag("prepare", prepare, ' or "auto"'),
        )


def parsed(url: object, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The DSN and the store's options of a URL, with `options` going before those that it carries.

    Raises InvalidOptionError for a URL of another scheme, and for an option that does not exist.
    """
    if not isinstance(url, str) or not _URL.match(url):
        raise InvalidOptionError("url", HIDDEN, "write postgresql://user@host:5432/database")
    base, query = _split(url, "url")
    found = dict(options)
    refuse_unknown("postgresql", NAMES, options)
    rest = []
    for name, value in query:
        if name in NAMES:
            found.setdefault(name, value)
        else:
            _known(name, query)
            rest.append(f"{quote(name, safe='')}={quote(value, safe='')}")
    return base + ("?" + "&".join(rest) if rest else ""), found


def _split(url: str, option: str) -> tuple[str, list[tuple[str, str]]]:
    """A URL's part before the `?`, and what stands behind it.

    Raises InvalidOptionError for an `@` that libpq would take for something else than a password's end, so
    that the rest of the password is in no host name.
    """
    # As libpq reads it: user and password end with the first @ before any slash, and may contain a ?.
    start = url.index("://") + 3
    login = re.match(r"[^@/]*@", url[start:])
    mark = url.find("?", start + (login.end() if login else 0))
    base = url if mark < 0 else url[:mark]
    if "@" in base[start + (login.end() if login else 0) :]:
        raise InvalidOptionError(option, HIDDEN, _QUOTE)
    if mark < 0:
        return base, []
    # A + is no space to libpq.
    return base, parse_qsl(url[mark + 1 :].replace("+", "%2B"), keep_blank_values=True)


def _known(name: str, query: Sequence[tuple[str, str]]) -> None:
    keywords = {entry.keyword.decode() for entry in pq.Conninfo.get_defaults()} | {"ssl"}
    if name not in keywords:
        raise InvalidOptionError(
            shown_name(name, query),
            HIDDEN,
            f"the options of postgresql are {', '.join(NAMES)}, and the parameters of libpq",
        )


def _parsed(dsn: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = dict(conninfo_to_dict(dsn))
    except (ProgrammingError, ValueError):  # a lone surrogate is a ValueError
        return None
    # A URL in the wrong place: as a host, it would be shown. (An abstract socket begins with an @.)
    hosts = str(found.get("host") or found.get("hostaddr") or "").split(",")
    if any("@" in host[1:] for host in hosts) or "://" in str(found.get("dbname") or ""):
        return None
    # libpq looks at the port when it connects
    ports = str(found.get("port") or "").split(",")
    return found if all(not port or _PORT.fullmatch(port) for port in ports) else None


def _place(parameters: Mapping[str, Any]) -> str:
    hosts = str(parameters.get("host") or parameters.get("hostaddr") or "").split(",")
    ports = str(parameters.get("port") or "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    where = ",".join(f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False))
    return f"{where}/{parameters.get('dbname') or ''}"


def _pool(value: object, dsn: object) -> AsyncConnectionPool[Any] | None:
    if value is not None and not isinstance(value, AsyncConnectionPool):
        raise InvalidOptionError("pool", type(value), "give a psycopg_pool.AsyncConnectionPool")
    if value is not None and dsn is not None:
        raise InvalidOptionError("pool", value, "give a DSN or a pool: a pool knows where it leads")
    return value


def _schema(value: object) -> str:
    if (
        not isinstance(value, str)
        or not _SCHEMA.fullmatch(value)
        or len(value.encode(errors="replace")) > _LONGEST_SCHEMA
        or value.lower().startswith("pg_")
        or value.lower() == "information_schema"
    ):
        raise InvalidOptionError(
            "schema",
            value,
            f"give a name of 1 to {_LONGEST_SCHEMA} bytes, made of letters, digits, spaces and any of "
            "_ - . $, that is not one of PostgreSQL's own",
        )
    return value


def _size(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len("1000"):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_CONNECTIONS:
        raise InvalidOptionError("pool_size", value, f"give a whole number from 1 to {_MOST_CONNECTIONS}")
    return value
