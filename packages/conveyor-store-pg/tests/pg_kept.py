"""Connections that go from one test to the next, as a pooler in session mode would hand them on.

A new backend reads the catalog and plans everything anew: that was two thirds of what the contract cost a
server. What a session may leave to the next is gone with `discard all`: prepared statements, settings, what
it listens to, advisory locks, temporary tables.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self
from unittest.mock import patch

from psycopg import pq
from psycopg.rows import tuple_row

from conveyor.store.pg import connection, listener
from conveyor.store.pg.connection import Connection, OwnConnection, close_now, is_idle, is_usable

#: By process and place: what a process has made is not used by one that was forked from it.
_idle: Final[defaultdict[tuple[int, str], list[pq.abc.PGconn]]] = defaultdict(list)


class Kept(OwnConnection):
    """A connection whose session goes on when it is closed."""

    _place = ""

    @classmethod
    async def connect(cls, conninfo: str = "", **options: Any) -> Self:
        """Go on with a session that was let go, or begin one."""
        sessions = _idle[os.getpid(), conninfo]
        while sessions:
            found = cls(sessions.pop(), tuple_row)
            if is_usable(found):
                await found.set_autocommit(options["autocommit"])
                found.prepare_threshold = options["prepare_threshold"]
                break
            close_now(found)
        else:
            found = await super().connect(conninfo, **options)
        found._place = conninfo
        return found

    async def close(self) -> None:
        """Let the session go."""
        if not self._let_go():
            await super().close()

    def _let_go(self) -> bool:
        session = self.pgconn
        if not is_idle(self) or session.exec_(b"discard all").status != pq.ExecStatus.COMMAND_OK:
            return False
        while session.notifies():
            pass
        self.pgconn = pq.PGconn()  # one that is closed
        _idle[os.getpid(), self._place].append(session)
        return True


def let_go(connection: Connection) -> None:
    """Let the session of a connection go, or close it where it is in the middle of something."""
    if not (isinstance(connection, Kept) and connection._let_go()):
        close_now(connection)


@contextmanager
def kept_connections() -> Iterator[None]:
    """Have stores keep their connections for those that are opened later."""
    with patch.object(connection, "OwnConnection", Kept), patch.object(listener, "close_now", let_go):
        yield


def close_all() -> None:
    """End every session that was let go."""
    for sessions in _idle.values():
        for session in sessions:
            session.finish()
    _idle.clear()
