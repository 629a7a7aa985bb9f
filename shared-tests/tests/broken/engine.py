"""Engines with one deliberate bug each: a part of core with one thing wrong, in its place for one test."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest

from conveyor.core import durations
from conveyor.core._engine import retention
from conveyor.core._engine.executor import Executor
from conveyor.core._engine.handlers import Payloads, Results
from conveyor.core._engine.heartbeat import Heartbeat
from conveyor.core._engine.outcome_policy import OutcomePolicy
from conveyor.core._engine.poller import Poller
from conveyor.core._engine.processes.pool import Processes
from conveyor.core._engine.run import Run
from conveyor.core._engine.scheduler import Scheduler
from conveyor.core._engine.worker_state import WorkerState
from conveyor.core._inspect import follow
from conveyor.core._jobs import cancel, edits, keep, payload, remove_and_release, typed_payload
from conveyor.core._jobs.family_follow_up import FollowUp
from conveyor.core._jobs.payload import Payload
from conveyor.core._jobs.report import Failure, Report
from conveyor.core._jobs.run_context import RunContext
from conveyor.core._jobs.settlements import Settlement
from conveyor.core.clock import Clock
from conveyor.core.errors import ConveyorError
from conveyor.core.events import Event
from conveyor.core.job import Job
from conveyor.core.job_options import JobOptions
from conveyor.core.queue import Queue
from conveyor.core.store import Change, Claimed, JobKey, JobRecord, JobState, Outcome, Retention, Store, Where


@dataclass(frozen=True)
class EngineBug:
    """What puts a broken part into the engine, the area that catches it, and a test there that fails."""

    put_in: Callable[[pytest.MonkeyPatch], None]
    area: str
    test: str

    def __str__(self) -> str:
        return f"{self.put_in.__name__}-{self.area}"


ENGINE_BUGS: list[EngineBug] = []
PutIn = Callable[[pytest.MonkeyPatch], None]


def caught_by(area: str, test: str) -> Callable[[PutIn], PutIn]:
    """Say which test of which area catches a bug of the engine."""

    def decorate(put_in: PutIn) -> PutIn:
        ENGINE_BUGS.append(EngineBug(put_in, area, test))
        return put_in

    return decorate


@caught_by("queue behaviour", "test_what_an_ended_run_left_behind_cannot_write")
@caught_by("queue behaviour", "test_a_thread_that_was_left_behind_cannot_write")
def ended_runs_write_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job of a handler that has ended is an ordinary one, and may be written to."""

    def own_run(job: Job[object]) -> RunContext | None:
        run = job.run_context
        return None if run is None or run.over else run

    monkeypatch.setattr(Job, "_own_run", own_run)


@caught_by("queue behaviour", "test_what_cannot_be_an_id_never_reaches_the_store")
def asks_the_store_for_any_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id goes to the store as it is given: one store finds "42" by 42, another one's driver fails."""
    monkeypatch.setattr(Queue, "_key", lambda queue, job_id: JobKey(queue.name, job_id))


@caught_by("lifecycle", "test_a_worker_and_an_observer_of_a_store_that_is_not_open_are_refused")
def waits_for_a_store_that_nobody_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is not open is taken for one that is away, and tried again for ever."""

    async def look(*_: object) -> None: ...

    monkeypatch.setattr(follow, "refuse_closed", look)


@caught_by("queue behaviour", "test_a_waiter_that_missed_the_event_finds_the_result")
def trusts_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a job looks at it once a minute where no event comes."""
    monkeypatch.setattr(follow, "REREAD", 60.0)


@caught_by("queue behaviour", "test_every_handler_of_a_mapping_gets_the_type_it_names")
def handlers_of_two_types_are_handlers_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping whose handlers do not all name one type is given plain JSON."""

    def of(payloads: Payloads, _: str) -> Payload[Any]:
        return payloads.usual

    monkeypatch.setattr(Payloads, "of", of)


@caught_by("interleavings", "test_no_job_is_forgotten_whatever_happens_within_a_call")
def adds_to_the_ready_jobs_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ready jobs are read before parents are looked at, and added to after that."""
    look = Poller._end_unfit

    async def end_unfit(poller: Poller, runs: list[Run]) -> None:
        poller._ready = deque(run for run in poller._ready if run not in runs)
        before = poller._ready
        await look(poller, runs)
        before.extend(run for run in runs if not run.ended)

    monkeypatch.setattr(Poller, "_end_unfit", end_unfit)


@caught_by("interleavings", "test_what_a_claim_brings_goes_back_if_its_pause_is_received_meanwhile")
def forgets_a_pause_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that is heard of concerns what is ready, and not what a claim on its way brings."""
    monkeypatch.setattr(Poller, "pause_received", lambda poller, _: poller.give_back())


@caught_by("interleavings", "test_what_was_claimed_keeps_its_lease_while_it_is_looked_at")
def holds_what_it_has_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was claimed is held from the moment that it may run, and looked at before."""
    take = Poller._take

    async def take_late(poller: Poller, *args: Any, **options: Any) -> None:
        looked_at: list[Run] = []
        heartbeat = poller.heartbeat
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(Heartbeat, "hold", lambda _, runs: looked_at.extend(runs))
            await take(poller, *args, **options)
        heartbeat.hold(looked_at)

    monkeypatch.setattr(Poller, "_take", take_late)


@caught_by("interleavings", "test_families_are_tidied_that_end_while_another_one_is")
def strikes_off_the_latest_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one of a list is tidied, and the last one is struck off: by then it may be another."""

    async def run(following: FollowUp, store: Store, *_: object, **__: object) -> list[Exception]:
        while following.over:
            await store.delete(Where(parent=list(following.over)[-1], expired=True), limit=100)
            following.over.popitem()
        return []

    monkeypatch.setattr(FollowUp, "run", run)


@caught_by("schedules", "test_a_schedule_whose_jobs_cannot_be_looked_at_fires_when_they_can")
def forgets_claimed_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedules are claimed, and forgotten if the look at their jobs fails."""
    decide = Scheduler._decide

    async def forgetful(scheduler: Scheduler, claimed: Claimed) -> list[Any]:
        scheduler._unwritten = []
        return await decide(scheduler, claimed)

    monkeypatch.setattr(Scheduler, "_decide", forgetful)


@caught_by("queue behaviour", "test_a_handler_that_is_cancelled_by_itself_has_failed")
@caught_by("queue behaviour", "test_a_batch_that_is_cancelled_by_its_handler_has_failed")
def takes_every_cancellation_for_one_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler whose task was cancelled has done nothing wrong, whoever cancelled it."""
    monkeypatch.setattr(WorkerState, "is_ending", True)


@caught_by("queue behaviour", "test_typed_data_that_would_come_back_changed_is_refused")
@caught_by("queue behaviour", "test_typed_data_that_is_taken_comes_back_equal")
def what_was_written_is_not_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever pydantic writes of a value is taken for that value."""
    monkeypatch.setattr(typed_payload, "_flaw", lambda *_: None)


@caught_by("queue behaviour", "test_data_and_results_that_are_no_json_come_back_as_what_stands_for_them")
def what_is_no_json_is_stored_as_python_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dates and the like are stored as their `str`."""
    monkeypatch.setattr(payload, "to_jsonable_python", lambda value, **_: str(value))


@caught_by("queue behaviour", "test_a_thread_past_its_timeout_keeps_its_slot_and_not_its_job")
def waits_for_threads_past_their_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread is asked to stop when its time is over, and waited for."""
    call = Executor._call

    async def wait(executor: Executor, runs: Sequence[Run]) -> Any:
        asked = asyncio.ensure_future(call(executor, runs))
        while not asked.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(asked)
        return asked.result()

    monkeypatch.setattr(Executor, "_call", wait)


@caught_by("queue behaviour", "test_however_a_run_ends_it_ends_so_on_each_executor")
def the_death_of_a_process_is_a_failed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose process died has failed, and used an attempt."""

    def stalled(policy: OutcomePolicy, run: Run, how: str, now: datetime) -> Settlement:
        error = ConveyorError(how)
        return policy._failed(run, Failure.of(error), now, error)

    monkeypatch.setattr(OutcomePolicy, "_stalled", stalled)


@caught_by("queue behaviour", "test_however_a_run_ends_it_ends_so_on_each_executor")
def leaves_its_processes_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is closed lets its processes be."""

    async def close(_: Processes) -> None:
        """Do nothing."""

    monkeypatch.setattr(Processes, "close", close)


@caught_by("queue behaviour", "test_writers_at_once_lose_nothing")
@caught_by("queue behaviour", "test_writers_to_a_parent_at_once_lose_nothing")
def writers_from_outside_overwrite_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes to a job from outside does not look whether somebody has written since it was read."""

    async def edit_report(
        store: Store, key: JobKey, edit: Callable[[Report], object], states: frozenset[JobState]
    ) -> JobRecord:
        where = Where(queue=key.queue, ids=frozenset({key.id}), states=states)
        [record] = await store.find(where, limit=1)
        report = Report.of(record)
        edit(report)
        await store.update(where, Change(report=report.encode()))
        return replace(record, report=report.encode())

    monkeypatch.setattr(edits, "edit_report", edit_report)


@caught_by("queue behaviour", "test_a_job_is_promoted_beside_its_writers")
def writers_from_outside_hold_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes to a job from outside leases it for a moment."""

    async def edit_report(
        store: Store, key: JobKey, edit: Callable[[Report], object], states: frozenset[JobState]
    ) -> JobRecord:
        while (record := await cancel.take(store, key)) is None:
            assert states
        report = Report.of(record)
        edit(report)
        await store.settle([Outcome.snoozed(record, report.encode())])
        return replace(record, report=report.encode())

    monkeypatch.setattr(edits, "edit_report", edit_report)


@caught_by("queue behaviour", "test_a_line_beside_a_claim_is_kept_or_refused")
def nobody_looks_for_what_was_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that passed over a job while it was written to is not made again."""

    async def wake(_: Job[object]) -> None:
        """Do nothing."""

    monkeypatch.setattr(Job, "_wake", wake)


@caught_by("queue behaviour", "test_the_logs_of_a_finished_job_can_be_cleared")
def finished_jobs_are_edited_as_if_they_had_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report of a finished job is written again as that of one that is to run."""
    encode = Report.encode
    edit = edits.edit_report

    async def edit_report(
        store: Store, key: JobKey, change: Callable[[Report], object], states: frozenset[JobState]
    ) -> JobRecord:
        with monkeypatch.context() as patched:
            patched.setattr(Report, "encode", lambda report, **_: encode(report))
            return await edit(store, key, change, states)

    monkeypatch.setattr(edits, "edit_report", edit_report)


@caught_by("queue behaviour", "test_typed_results_come_back_typed")
def an_annotation_that_a_result_does_not_fit_fails_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a handler's annotation says of its result is taken for a contract."""

    def encode(results: Results, name: str, value: object) -> str:
        return results.kinds.of(name).encode(value, results.max_bytes, "result")

    monkeypatch.setattr(Results, "encode", encode)


@caught_by("queue behaviour", "test_results_and_data_that_a_handler_writes_have_the_workers_limits")
def results_have_the_limit_of_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a result is looked at, but not by the worker's own measure."""
    encode = Results.encode

    def of_any_size(results: Results, name: str, value: object) -> str:
        return encode(replace(results, max_bytes=payload.MAX_BYTES), name, value)

    monkeypatch.setattr(Results, "encode", of_any_size)


@caught_by("queue behaviour", "test_every_removed_job_has_one_event_whatever_removes_it")
@caught_by("queue behaviour", "test_a_parent_that_a_removal_releases_has_an_event")
def removals_are_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is removed, and whom that releases, is told to nobody."""

    async def events_of(*_: object) -> list[Event]:
        return []

    monkeypatch.setattr(remove_and_release, "events_of", events_of)


@caught_by("queue behaviour", "test_children_are_kept_by_default_until_their_parent_has_completed")
def sweeps_without_a_look_at_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is old enough is removed, be it the child of a parent that has not run yet."""

    async def apart(_: Store, page: Sequence[JobRecord]) -> tuple[Sequence[JobRecord], Sequence[Any]]:
        return page, ()

    monkeypatch.setattr(retention, "_apart", apart)


@caught_by("queue behaviour", "test_what_goes_by_default_is_looked_at_once_by_however_many_workers")
def sweeps_what_another_is_sweeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker goes on to the end, though another one removes each page before it does."""
    remove = retention._remove

    async def remove_all(store: Store, where: Where, over: Sequence[JobRecord], clock: Clock) -> int:
        await remove(store, where, over, clock)
        return len(over)

    monkeypatch.setattr(retention, "_remove", remove_all)


@caught_by("queue behaviour", "test_by_default_finished_jobs_are_kept_a_day_and_failed_ones_a_fortnight")
def keeps_no_key_and_no_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has said anything of goes by default, whatever it is."""
    monkeypatch.setattr(keep, "_exception", lambda *_: None)


@caught_by("queue behaviour", "test_the_job_says_how_long_it_is_kept_else_its_worker_else_its_queue")
def its_worker_says_how_long_a_job_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker says goes for all that it finishes."""
    said = keep._said

    def by_worker_first(
        state: JobState, options: JobOptions, by_worker: Retention | None
    ) -> Retention | None:
        return by_worker or said(state, options, None)

    monkeypatch.setattr(keep, "_said", by_worker_first)


@caught_by(
    "interleavings", "test_a_job_that_is_cancelled_while_its_claim_is_on_its_way_does_not_run_to_its_end"
)
def forgets_who_is_cancelled_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation that is heard while a claim is on its way waits for the next heartbeat."""
    monkeypatch.setattr(Poller, "cancel_received", lambda _poller, _job_id: None)


@caught_by("queue behaviour", "test_a_job_that_has_no_handler_here_goes_back_as_if_never_claimed")
def runs_what_it_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a claim brings is run, and fails where there is no handler of its name."""
    opened = Poller._opened

    def open_any(poller: Poller, record: JobRecord) -> Run | None:
        rules = poller.rules
        poller.rules = replace(rules, claim=replace(rules.claim, names=None))
        try:
            return opened(poller, record)
        finally:
            poller.rules = rules

    monkeypatch.setattr(Poller, "_opened", open_any)


@caught_by("queue behaviour", "test_instants_and_durations_of_any_subclass_are_taken_as_plain_ones")
@caught_by("queue behaviour", "test_a_schedule_takes_instants_and_durations_of_any_subclass")
def durations_and_instants_are_kept_as_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is a `timedelta` or a `datetime` is taken for one that behaves like it."""
    monkeypatch.setattr(durations, "_plain_span", lambda value: value)
    monkeypatch.setattr(durations, "_plain_instant", lambda at: at)
