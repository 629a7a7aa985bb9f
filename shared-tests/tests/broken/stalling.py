"""Engines with one bug each, in what they do for jobs that have stalled before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from broken.engine import caught_by
from conveyor.core._engine.executor import Executor
from conveyor.core._engine.poller import Poller
from conveyor.core._engine.run import Run
from conveyor.core.store import Stalled
from conveyor.core.worker import Worker

ALONE = "test_a_job_that_has_stalled_starts_when_it_is_the_only_one_held_and_its_start_is_stored"


@caught_by("stalls", ALONE)
def starts_beside_what_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes back for a job that runs alone is on its way when that job starts, and dies with it."""

    def must_wait(poller: Poller, run: Run) -> bool:
        return bool(run.record.stalled and run.stop is None and poller.executor.running)

    monkeypatch.setattr(Poller, "_must_wait", must_wait)


@caught_by("stalls", "test_jobs_that_end_their_worker_cost_no_other_job_its_run")
def claims_others_with_jobs_that_have_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is claimed behind a job that is to run alone goes back each time."""
    alike = SimpleNamespace(ALONE=Stalled.ALIKE, LEFT=Stalled.ALIKE)
    monkeypatch.setattr("conveyor.core._engine.poller.Stalled", alike)


@caught_by("stalls", ALONE)
@caught_by("stalls", "test_jobs_that_end_their_worker_cost_no_other_job_its_run")
def holds_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """One runs, and the others wait, held by the same worker."""

    def isolate(poller: Poller) -> None:
        """Give nothing back."""

    def must_wait(poller: Poller, run: Run) -> bool:
        return bool(run.record.stalled and run.stop is None and poller.executor.running)

    claims_others_with_jobs_that_have_stalled(monkeypatch)
    monkeypatch.setattr(Poller, "_isolate", isolate)
    monkeypatch.setattr(Poller, "_must_wait", must_wait)


@caught_by("stalls", ALONE)
@caught_by("stalls", "test_jobs_that_end_their_worker_cost_no_other_job_its_run")
def writes_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job is run without its start being stored."""

    async def written(_: Executor, __: Any) -> bool:
        return True

    monkeypatch.setattr(Executor, "_starts_are_written", written)


@caught_by("stalls", "test_a_job_that_cannot_be_alone_here_soon_is_left_to_another_worker")
def claims_jobs_that_have_stalled_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is to run alone is claimed at once, and waits where the next deadly one may be held."""
    monkeypatch.setattr(Poller, "_holds_nothing", True)


@caught_by("stalls", "test_a_job_that_cannot_be_alone_here_soon_is_left_to_another_worker")
def waits_for_ever_to_be_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is to run alone is kept until everything else here has ended."""
    monkeypatch.setattr(Poller, "_return_isolated", lambda _: None)


@caught_by("stalls", "test_with_no_stall_allowed_nothing_is_claimed_ahead_and_every_start_is_stored")
@caught_by("stalls", "test_with_no_stall_allowed_a_job_that_was_only_claimed_is_not_failed")
def claims_are_starts_where_no_stall_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are claimed as started, and ahead, whatever one stall means for them."""
    make = Worker.__init__

    def init(worker: Worker[Any], *args: Any, max_stalled: int = 3, **options: Any) -> None:
        make(worker, *args, max_stalled=max_stalled or 1, **options)
        object.__setattr__(worker._rules, "max_stalled", max_stalled)

    monkeypatch.setattr(Worker, "__init__", init)
