"""A worker's service for families: does what follows from the jobs it settles, beside its other work."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.parents import FollowUp
from conveyor.core._jobs.refusals import concerns_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from conveyor.core._engine.error_backoff import ErrorBackoff
    from conveyor.core._engine.publisher import Announcer
    from conveyor.core._jobs.outcomes import Settlement
    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.store import Retention, Settled, Store

_log: Final = logging.getLogger("conveyor.flow")


class Parents:
    """Decides about the parents, and tidies up after the children, of what a worker settles."""

    def __init__(
        self,
        *,
        store: Store,
        lease: timedelta,
        keep: Retention | None,
        announcer: Announcer,
        backoff: ErrorBackoff,
        clock: Clock,
        loop_ends: Callable[[], bool],
    ) -> None:
        self._store = store
        self._lease = lease
        self._announcer = announcer
        self._backoff = backoff
        self._clock = clock
        self._loop_ends = loop_ends
        self._follow_up = FollowUp(keep)
        self._task: asyncio.Task[None] | None = None
        self._abandoned = False

    @property
    def busy(self) -> bool:
        """Whether something is still to be done."""
        return self._task is not None and not self._task.done()

    def note(self, settlements: Sequence[Settlement], settled: Settled) -> None:
        """Do what follows from these soon; after `abandon`, never: who claims the parents will."""
        self._follow_up.note(settlements, settled)
        if self._follow_up and not self.busy and not self._abandoned and not self._loop_ends():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def flush(self) -> None:
        """Return when everything noted so far is done."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Stop trying."""
        self._abandoned = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while self._follow_up and not self._abandoned:
            try:
                refused = await self._follow_up.run(
                    self._store, self._clock, self._publish, lease=self._lease
                )
            except Exception as error:  # noqa: BLE001 - a bug must not hold up the worker: logged, and left to others
                if concerns_store(error):
                    await self._backoff.wait(error)
                    continue
                _log.exception("parents were not looked at; who claims them will")
                self._follow_up.unwritten = []  # their holds lapse; what is kept would fail again at once
            else:
                self._backoff.succeeded()
                for one in refused:
                    _log.error("a parent was not looked at; who claims it will", exc_info=one)

    async def _publish(self, events: list[Event]) -> None:
        self._announcer.tell(events)
