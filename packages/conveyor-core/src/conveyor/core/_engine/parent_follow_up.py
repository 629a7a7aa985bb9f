"""A worker's service for families: does what follows from the jobs it settles, beside its other work."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.family_follow_up import FollowUp
from conveyor.core._jobs.refusals import concerns_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conveyor.core._engine.error_backoff import ErrorBackoff
    from conveyor.core._engine.worker_context import WorkerContext
    from conveyor.core._jobs.settlements import Settlement
    from conveyor.core.events import Event
    from conveyor.core.store import Retention, Settled

_log: Final = logging.getLogger("conveyor.flow")


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Parents:
    """Decides about the parents, and tidies up after the children, of what a worker settles."""

    context: WorkerContext
    #: How long jobs are kept that do not say so themselves.
    keep: Retention | None
    backoff: ErrorBackoff
    _follow_up: FollowUp = field(init=False)
    _task: asyncio.Task[None] | None = field(init=False, default=None)
    _abandoned: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._follow_up = FollowUp(self.keep)

    @property
    def busy(self) -> bool:
        """Whether something is still to be done."""
        return self._task is not None and not self._task.done()

    def note(self, settlements: Sequence[Settlement], settled: Settled) -> None:
        """Do what follows from these soon; after `abandon`, never: who claims the parents will."""
        self._follow_up.note(settlements, settled)
        if self._follow_up and not self.busy and not self._abandoned and not self.context.state.loop_ends:
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
                    self.context.store, self.context.clock, self._publish, lease=self.context.lease
                )
            except Exception as error:  # noqa: BLE001 - a bug must not hold up the worker: logged, and left to others
                if concerns_store(error):
                    await self.backoff.wait(error)
                    continue
                _log.exception("parents were not looked at; who claims them will")
                self._follow_up.unwritten = []  # their holds lapse; what is kept would fail again at once
            else:
                self.backoff.succeeded()
                for one in refused:
                    _log.error("a parent was not looked at; who claims it will", exc_info=one)

    async def _publish(self, events: list[Event]) -> None:
        self.context.publisher.publish(events)
