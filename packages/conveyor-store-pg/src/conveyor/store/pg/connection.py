"""Single connections: how one is made, and whether one that lay idle can still be used."""

from __future__ import annotations

import select
from collections.abc import Mapping
from contextlib import suppress
from inspect import isawaitable
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool

from conveyor.store.pg.options import Target

#: A connection of the store's own, or one of a pool that it was given.
Connection: TypeAlias = AsyncConnection[Any]

#: What is asked of libpq unless the user's DSN says otherwise. A peer that is gone without a word is noticed
#: within a minute; none of this is sent to the server, or a pooler would have to know it.
_DEFAULTS: Final = {
    "application_name": "conveyor",
    "connect_timeout": "5",
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
#: What a pool may say about its connections that is not for libpq.
_OF_THE_CLIENT: Final = {"autocommit", "prepare_threshold", "context", "row_factory", "cursor_factory"}
#: How often psycopg sees a statement before it has it prepared.
_PREPARE_AFTER: Final = 5


class OwnConnection(AsyncConnection[tuple[Any, ...]]):
    """A connection that this store has made."""


async def connect(target: Target, *, prepare: bool) -> OwnConnection:
    """A new connection, outside of any transaction.

    Of several hosts it is one that can be written to.
    """
    parameters = _DEFAULTS | target.parameters
    if target.several:
        parameters.setdefault("target_session_attrs", "read-write")
    return await OwnConnection.connect(
        make_conninfo(**(parameters | {"client_encoding": "UTF8"})),
        autocommit=True,
        prepare_threshold=_PREPARE_AFTER if prepare else None,
    )


async def connect_beside(pool: AsyncConnectionPool[Any]) -> Connection:
    """A connection to where those of a pool lead, that is none of its own."""
    conninfo: str = await _asked(pool.conninfo) or ""
    given: Mapping[str, Any] = await _asked(pool.kwargs) or {}
    parameters: dict[str, Any] = {**_DEFAULTS, **conninfo_to_dict(conninfo), **given}
    for name in _OF_THE_CLIENT & parameters.keys():
        del parameters[name]
    return await AsyncConnection.connect(**parameters, autocommit=True, prepare_threshold=None)


async def _asked(value: Any) -> Any:
    """A parameter of a pool: itself, or what a function returns."""
    if callable(value):
        value = value()
    return await value if isawaitable(value) else value


def is_idle(connection: Connection) -> bool:
    """Whether it is open and in no transaction."""
    return not connection.closed and connection.info.transaction_status == pq.TransactionStatus.IDLE


def is_usable(connection: Connection) -> bool:
    """Whether it is idle and, as far as can be seen from here, still connected.

    A server that went away has left its last words, or the end of the stream, for us to read. Otherwise the
    first call after a restart would not know whether it had happened.
    """
    with suppress(psycopg.Error, OSError, ValueError):
        while is_idle(connection) and _readable(connection.pgconn.socket):
            connection.pgconn.consume_input()
            connection.pgconn.is_busy()  # has libpq read what came
        return is_idle(connection)
    return False


def close_now(connection: Connection) -> None:
    """Close it at once, whatever it is doing; the server undoes what was not committed."""
    with suppress(psycopg.Error, OSError):
        connection.pgconn.finish()


def _readable(descriptor: int) -> bool:
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([descriptor], [], [], 0)[0])  # pragma: no cover - Windows
