"""The line on which notifications arrive: one connection, outside of the pool, that is always there again."""

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
from conveyor.store.pg.connect import Connection, close_now, connect, connect_beside
from conveyor.store.pg.errors import store_error
from conveyor.store.pg.options import Options

log: Final = logging.getLogger("conveyor.store.pg")

#: How often the line is tried while nothing is heard, and how long an answer may take, in seconds.
PING: Final = 10.0
_ANSWER: Final = 5.0
#: How long the notification to oneself may take.
_HEARD: Final = 1.0
_FIRST: Final = 0.05
_EXPECTED: Final = (psycopg.Error, StoreError, TimeoutError, OSError)
_LONGEST: Final = 5.0


class Hears(Protocol):
    """Who is told of what arrives."""

    def heard(self, payload: str) -> None:
        """A notification."""
        ...

    async def restored(self) -> None:
        """The line is there again after a loss: what was sent meanwhile is gone."""
        ...

    async def tick(self) -> None:
        """The line is well; about every `PING` seconds."""
        ...


class Listener:
    """Listens until it is stopped."""

    def __init__(
        self, options: Options, channel: str, told: Hears, test: Callable[[], Awaitable[str]]
    ) -> None:
        """Listen where `options` say. `test` sends a notification another way, and returns its text."""
        self._target = options.listen or options.target
        self._pool = options.pool if options.listen is None else None
        self._channel = channel
        self._told = told
        self._test = test
        self._task: asyncio.Task[None] | None = None
        self._echo: asyncio.Event = asyncio.Event()
        self._expected: str | None = None
        self._losses = 0
        #: Set once it is known whether anything can be heard.
        self.known: Final = asyncio.Event()
        #: Whether notifications do not get through at all.
        self.deaf = False

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._run(), name="conveyor-listen")

    async def stop(self) -> None:
        """Listen no more. A cancellation goes on when that has ended."""
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
        while not self.deaf and self._task is not None:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - whatever it is, the line must be there again
                await self._lost(error)

    async def _lost(self, error: Exception) -> None:
        self._losses += 1
        if self._losses == 1:
            shown = store_error(error, self._target) if isinstance(error, psycopg.Error) else error
            text = "events of other processes are not heard for now: %s"
            if isinstance(error, _EXPECTED):
                log.warning(text, shown or type(error).__name__)
            else:
                log.error(text, shown or type(error).__name__, exc_info=error)
        if self._losses > 1:
            self.known.set()  # nobody waits any longer for a server that is away
        wait = min(_LONGEST, _FIRST * 2.0 ** min(self._losses - 1, 10))
        await asyncio.sleep(wait * (0.5 + random.random() / 2))

    async def _listen(self) -> None:
        async with asyncio.timeout(_ANSWER * 2):
            if self._pool is not None:
                line: Connection = await connect_beside(self._pool)
            else:
                line = await connect(self._target, prepare=False)
        try:
            async with asyncio.timeout(_ANSWER):
                await line.execute(SQL("listen {}").format(Identifier(self._channel)))
            if not await self._hears(line):
                return
            if self.known.is_set():
                await self._told.restored()
            if self._losses:
                log.warning("events of other processes are heard again")
            self._losses = 0
            self.known.set()
            while True:
                await self._hear(line, PING)
                async with asyncio.timeout(_ANSWER):
                    await line.execute("select 1")
                await self._told.tick()
        finally:
            close_now(line)

    async def _hears(self, line: Connection) -> bool:
        """Whether a notification from another connection arrives; if not, nothing ever will."""
        self._echo.clear()
        self._expected = await self._test()
        for _ in range(10):
            await self._hear(line, _HEARD / 10)
            if self._echo.is_set():
                return True
        if self._losses or self.known.is_set():
            msg = "a notification did not arrive"
            raise TimeoutError(msg)
        self.deaf = True
        self.known.set()
        log.warning(
            "notifications through %s do not arrive, so events of other processes are not heard, and workers "
            "find jobs by polling; behind a connection pooler give listen_dsn, a direct line to the server",
            self._target.place,
        )
        return False

    async def _hear(self, line: Connection, seconds: float) -> None:
        async with aclosing(line.notifies(timeout=seconds)) as notifications:
            async for notification in notifications:
                if notification.payload != self._expected:
                    self._told.heard(notification.payload)
                    continue
                self._expected = None
                self._echo.set()
                return
