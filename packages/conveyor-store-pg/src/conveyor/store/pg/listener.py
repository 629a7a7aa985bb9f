"""The connection on which notifications arrive: one outside of the pool, made again whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final, Protocol

import psycopg
from psycopg.sql import SQL, Identifier

from conveyor.core.errors import StoreError
from conveyor.store.pg.connection import Connection, close_now, connect, connect_beside
from conveyor.store.pg.errors import store_error
from conveyor.store.pg.options import Options

log: Final = logging.getLogger("conveyor.store.pg")

#: How often the connection is tried while nothing arrives, and how long an answer may take, in seconds.
PING: Final = 10.0
_ANSWER_TIMEOUT: Final = 5.0
#: How long the notification of the self-test may take.
_SELF_TEST_TIMEOUT: Final = 1.0
_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 5.0
_EXPECTED: Final = (psycopg.Error, StoreError, TimeoutError, OSError)


class Receiver(Protocol):
    """Takes what arrives."""

    def receive(self, payload: str) -> None:
        """Take a notification."""
        ...

    async def reconnected(self) -> None:
        """Take note that the connection was lost and is there again: what was sent meanwhile is gone."""
        ...

    async def tick(self) -> None:
        """Take note that the connection is well; about every `PING` seconds."""
        ...


class Listener:
    """Listens until it is stopped."""

    def __init__(
        self, options: Options, channel: str, receiver: Receiver, self_test: Callable[[], Awaitable[str]]
    ) -> None:
        """Listen where `options` say. `self_test` sends a notification another way, and returns its text."""
        self._target = options.listen or options.target
        self._pool = options.pool if options.listen is None else None
        self._channel = channel
        self._receiver = receiver
        self._send_self_test = self_test
        self._task: asyncio.Task[None] | None = None
        self._self_test_arrived: asyncio.Event = asyncio.Event()
        self._expected: str | None = None
        self._losses = 0
        #: Set once it is known whether notifications arrive.
        self.known: Final = asyncio.Event()
        #: Whether notifications do not get through at all.
        self.no_notifications = False

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._run(), name="conveyor-listen")

    async def stop(self) -> None:
        """End listening. A cancellation goes on when that has ended."""
        task, self._task = self._task, None
        self.known.set()
        cancelled = False
        while task is not None and not task.done():
            task.cancel()
            try:
                await asyncio.wait({task}, timeout=1)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    async def _run(self) -> None:
        while not self.no_notifications and self._task is not None:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - whatever it is, the connection must be there again
                await self._wait_after(error)

    async def _wait_after(self, error: Exception) -> None:
        self._losses += 1
        if self._losses == 1:
            shown = store_error(error, self._target) if isinstance(error, psycopg.Error) else error
            text = "events of other processes are not received for now: %s"
            if isinstance(error, _EXPECTED):
                log.warning(text, shown or type(error).__name__)
            else:
                log.error(text, shown or type(error).__name__, exc_info=error)
        if self._losses > 1:
            self.known.set()  # subscribers wait no longer for a server that is away
        delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(self._losses - 1, 10))
        await asyncio.sleep(delay * (0.5 + random.random() / 2))

    async def _listen(self) -> None:
        async with asyncio.timeout(_ANSWER_TIMEOUT * 2):
            connection = await self._connect()
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                await connection.execute(SQL("listen {}").format(Identifier(self._channel)))
            if not await self._passes_self_test(connection):
                return
            if self.known.is_set():
                await self._receiver.reconnected()
            if self._losses:
                log.warning("events of other processes are received again")
            self._losses = 0
            self.known.set()
            while True:
                await self._receive(connection, PING)
                async with asyncio.timeout(_ANSWER_TIMEOUT):
                    await connection.execute("select 1")
                await self._receiver.tick()
        finally:
            close_now(connection)

    async def _connect(self) -> Connection:
        if self._pool is not None:
            return await connect_beside(self._pool)
        return await connect(self._target, prepare=False)

    async def _passes_self_test(self, connection: Connection) -> bool:
        """Whether a notification from another connection arrives; if not, none ever will."""
        self._self_test_arrived.clear()
        self._expected = await self._send_self_test()
        for _ in range(10):
            await self._receive(connection, _SELF_TEST_TIMEOUT / 10)
            if self._self_test_arrived.is_set():
                return True
        if self._losses or self.known.is_set():
            msg = "a notification did not arrive"
            raise TimeoutError(msg)
        self.no_notifications = True
        self.known.set()
        log.warning(
            "notifications through %s do not arrive, so events of other processes are not received, and "
            "workers find jobs by polling; behind a connection pooler give listen_dsn, a direct connection",
            self._target.place,
        )
        return False

    async def _receive(self, connection: Connection, seconds: float) -> None:
        """Pass on what arrives for so long, or until the notification of the self-test does."""
        async with aclosing(connection.notifies(timeout=seconds)) as notifications:
            async for notification in notifications:
                if notification.payload != self._expected:
                    self._receiver.receive(notification.payload)
                    continue
                self._expected = None
                self._self_test_arrived.set()
                return
