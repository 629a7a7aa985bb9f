"""Connections that go from one test of the contract to the next leave nothing to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conveyor.store.pg.connection import Connection, connect
from conveyor.store.pg.options import Options
from conveyor.testing.pg import Server
from pg_kept import close_all, kept_connections

pytestmark = pytest.mark.slow

LEFT = """
select name from pg_prepared_statements
union all select pg_listening_channels()
union all select current_setting('application_name') where current_setting('application_name') = 'odd'
union all select locktype from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
union all select relname from pg_class where relnamespace = pg_my_temp_schema()
"""


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    with kept_connections():
        yield
    close_all()


async def connected(server: Server) -> Connection:
    return await connect(Options.checked(server.url).target, prepare=True)


async def left(connection: Connection) -> set[str]:
    cursor = await connection.execute(LEFT.encode(), prepare=False)
    return {name for (name,) in await cursor.fetchall()}


async def test_a_session_that_is_kept_has_nothing_of_its_last_user(shared_server: Server) -> None:
    first = await connected(shared_server)
    pid = first.info.backend_pid
    await first.execute("prepare one as select 1")
    await first.execute("listen news")
    await first.execute("set application_name = 'odd'")
    await first.execute("select pg_advisory_lock(4711)")
    await first.execute("create temporary table scraps (n int)")
    await first.execute("notify news")
    before = await left(first)

    await first.close()
    second = await connected(shared_server)

    assert before == {"one", "news", "odd", "advisory", "scraps"}
    assert first.closed
    assert second.info.backend_pid == pid
    assert await left(second) == set()
    assert [notification async for notification in second.notifies(timeout=0)] == []
    await second.close()


async def test_a_session_in_the_middle_of_a_transaction_is_not_kept(shared_server: Server) -> None:
    first = await connected(shared_server)
    pid = first.info.backend_pid
    await first.execute("begin")

    await first.close()
    second = await connected(shared_server)

    assert second.info.backend_pid != pid
    await second.close()
