"""Keeping leases alive: every lease that this worker holds, in one call; and what handlers write."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from conveyor.core._engine.run import Stop
from conveyor.core._engine.service_loop import Wakeup, run_service
from conveyor.core._jobs.refusals import write_in_parts
from conveyor.core.errors import LeaseLostError
from conveyor.core.store import Beat, Renewed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from conveyor.core._engine.error_backoff import ErrorBackoff
    from conveyor.core._engine.registration import Registration
    from conveyor.core._engine.run import Run
    from conveyor.core._engine.worker_context import WorkerContext
    from conveyor.core.clock import Timer
    from conveyor.core.store import Lease

_log: Final = logging.getLogger("conveyor.worker")

#: Log lines wait this long for others before they are written.
_SOON: Final = 0.1
#: Renewals per lease: two may fail before the lease runs out.
_PER_LEASE: Final = 3


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Heartbeat:
    """Holds runs, from their claim until they are settled, and renews their leases."""

    context: WorkerContext
    registration: Registration
    backoff: ErrorBackoff
    _held: dict[Lease, Run] = field(init=False, default_factory=dict)
    _edited: set[Lease] = field(init=False, default_factory=set)
    _payloads: dict[Lease, str] = field(init=False, default_factory=dict)
    #: Those of whose beats the store has refused what they carried: they go by themselves.
    _refused: set[Lease] = field(init=False, default_factory=set)
    _writers: list[tuple[Run, asyncio.Future[None]]] = field(init=False, default_factory=list)
    _writing: asyncio.Task[None] | None = field(init=False, default=None)
    _timer: Timer | None = field(init=False, default=None)
    _wakeup: Wakeup = field(init=False, default_factory=Wakeup)

    def hold(self, runs: Iterable[Run]) -> None:
        """Renew these from now on."""
        for run in runs:
            self._held[run.record.lease] = run

    def drop(self, leases: Iterable[Lease]) -> None:
        """Renew these no more."""
        for lease in leases:
            self._held.pop(lease, None)
            self._edited.discard(lease)
            self._payloads.pop(lease, None)
            self._refused.discard(lease)

    @property
    def held(self) -> list[Run]:
        """What is held now."""
        return list(self._held.values())

    def held_by(self, lease: Lease) -> Run | None:
        """The run that this lease holds, if it is held here."""
        return self._held.get(lease)

    def find(self, job_id: str) -> Run | None:
        """The run of a job, if it is held here."""
        return next((run for run in self._held.values() if run.record.id == job_id), None)

    async def loop(self) -> None:
        """Renew until `stop`, several times per lease; a failure is tried again until it works."""
        await run_service(self.tick, self._wakeup, self.backoff)

    def stop(self) -> None:
        """Let `loop` end."""
        self._wakeup.stop()
        if self._timer is not None:
            self._timer.cancel()

    async def tick(self) -> float:
        """Renew everything that is held, once, and return the seconds until it is time to do so again."""
        if self._held or self.registration.lease is not None:
            await self._renew(self._held.keys())
        return self.context.lease.total_seconds() / _PER_LEASE

    async def write(self, run: Run, payload: str | None) -> None:
        """Store what the run's handler wrote; several runs' writes go together."""
        lease = run.record.lease
        if lease not in self._held or run.stop is Stop.LEASE_LOST or self.context.state.loop_ends:
            raise LeaseLostError(run.record.id)
        self._edited.add(lease)
        if payload is not None:
            self._payloads[lease] = payload
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writers.append((run, written))
        self._start_writing()
        await written

    async def write_starts(self, runs: Iterable[Run]) -> None:
        """Store that these jobs are about to run: from now on the loss of their leases is a stall.

        Those whose leases are lost are stopped. Raises what the store raises: then they must not run.
        """
        beats = [Beat(lease=run.record.lease, started=True) for run in runs]
        renewed, refused = await self._send(beats)
        self._stop_lost(renewed)
        for error in refused.values():
            raise error

    def write_soon(self, run: Run) -> None:
        """Store what the run's handler wrote, within a moment."""
        if run.stop is Stop.LEASE_LOST:
            raise LeaseLostError(run.record.id)
        self._edited.add(run.record.lease)
        self._write_after(_SOON)

    def _write_after(self, seconds: float) -> None:
        if self._timer is None and not self._wakeup.stopping:
            self._timer = self.context.clock.call_later(seconds, self._soon)

    def _soon(self) -> None:
        self._timer = None
        self._start_writing()

    def _start_writing(self) -> None:
        if (self._writing is None or self._writing.done()) and not self.context.state.loop_ends:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        while self._writers or self._edited & self._held.keys():
            writers, self._writers = self._writers, []
            edited, self._edited = self._edited & self._held.keys(), set()
            # What was refused before is not tried again for a line of a log: it comes with the outcome.
            edited -= self._refused - {run.record.lease for run, _ in writers}
            if not edited and not writers:
                return
            payloads, self._payloads = self._payloads, {}
            try:
                held, refused = await self._renew(edited, payloads)
            except Exception as trouble:  # noqa: BLE001 - whatever it is, what waits for the write must know
                self._edited |= edited & self._held.keys()
                if not writers:
                    self._write_after(self.backoff.failed(trouble))
                    return
                for _, written in writers:
                    if not written.done():
                        written.set_exception(trouble)
                continue
            for lease in (held - refused.keys()) & payloads.keys() & self._held.keys():
                # A dead letter has the data that the job had in the end.
                run = self._held[lease]
                run.record = replace(run.record, payload=payloads[lease])
            for run, written in writers:
                _answer(run, written, held, refused)

    async def _renew(
        self, leases: Collection[Lease], payloads: Mapping[Lease, str] | None = None
    ) -> tuple[frozenset[Lease], Mapping[Lease, Exception]]:
        """Renew these, with `payloads` write what their handlers wrote too.

        Returns those still held, and of which the store refused what they carried, and how.
        """
        # Only `_write` writes, and is never under way twice: no report can be overtaken by an older one.
        beats = [
            Beat(lease=lease)
            if payloads is None
            else Beat(lease=lease, report=self._held[lease].report.encode(), payload=payloads.get(lease))
            for lease in leases
        ]
        # The worker's own sign of life rides along.
        if payloads is None and (mine := self.registration.beat()) is not None:
            beats.append(mine)
        renewed, refused = await self._send(beats)
        self.registration.renewed(renewed)
        self._stop_lost(renewed)
        return renewed.held, refused

    def _stop_lost(self, renewed: Renewed) -> None:
        """Stop the handlers of jobs that are not held any more, and of those that are to be cancelled."""
        for lease in renewed.lost:
            lost = self._held.get(lease)
            # A job that was settled while the renewal was on its way is lost to it, and rightly so.
            if lost is not None and not lost.ended:
                _log.warning(
                    "the lease on job %s (%s) was lost; its handler is stopped", lease.id, lost.record.name
                )
                lost.halt(Stop.LEASE_LOST)
        for lease in renewed.cancelled:
            cancelled = self._held.get(lease)
            if cancelled is not None:
                cancelled.halt(Stop.CANCELLED)

    async def _send(self, beats: Sequence[Beat]) -> tuple[Renewed, Mapping[Lease, Exception]]:
        """Renew leases together; of a beat that is refused for what it carries, the lease all the same.

        Says what became of them, and which were refused, and how.
        """
        answers: list[Renewed] = []
        refused: dict[Lease, Exception] = {}

        async def renew(part: Sequence[Beat]) -> None:
            answers.append(await self.context.store.renew(part, self.context.lease))

        async def renew_bare(beat: Beat, error: Exception) -> None:
            refused[beat.lease] = error
            if beat.lease not in self._refused:
                self._refused.add(beat.lease)
                _log.error("the store refuses what is to be kept of job %s: %s", beat.lease.id, error)
            if _carries(beat):
                bare = replace(beat, report=None, payload=None)
                await write_in_parts([bare], renew, _let_lapse)

        apart = [beat for beat in beats if beat.lease in self._refused and _carries(beat)]
        together = [beat for beat in beats if beat not in apart]
        for part in (together, *([beat] for beat in apart)):
            if part or not beats:
                await write_in_parts(part, renew, renew_bare)
        if refused and not answers:
            raise next(iter(refused.values()))  # it takes nothing at all: that is about the store
        self._refused -= {beat.lease for beat in apart} - refused.keys()
        return _together(answers), refused


def _answer(
    run: Run,
    written: asyncio.Future[None],
    held: Collection[Lease],
    refused: Mapping[Lease, Exception],
) -> None:
    """Let who waits for a write know what became of it."""
    if written.done():
        return
    if (error := refused.get(run.record.lease)) is not None:
        written.set_exception(error)
    elif run.record.lease in held:
        written.set_result(None)
    else:
        written.set_exception(LeaseLostError(run.record.id))


def _carries(beat: Beat) -> bool:
    return beat.report is not None or beat.payload is not None


async def _let_lapse(_: Beat, __: Exception) -> None:
    """Not even the lease can be renewed: it ends by itself."""


def _together(answers: Sequence[Renewed]) -> Renewed:
    return Renewed(
        held=frozenset(lease for answer in answers for lease in answer.held),
        lost=frozenset(lease for answer in answers for lease in answer.lost),
        cancelled=frozenset(lease for answer in answers for lease in answer.cancelled),
    )
