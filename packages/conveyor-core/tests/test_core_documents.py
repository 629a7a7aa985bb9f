"""What core stores as JSON: releases of different age read one another's documents."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conveyor.core import (
    Attempt,
    Backoff,
    GroupLimit,
    JobOptions,
    RateLimit,
    RunAll,
    RunningJob,
    WorkerInfo,
    _documents,
)
from conveyor.core._jobs.report import Failure, Report
from conveyor.core._schedules.definition import ScheduleSpec, ScheduleState
from conveyor.core.events import JobRetrying
from conveyor.core.store import JobKey, JobRecord, Retention

AT = datetime(2026, 1, 1, tzinfo=UTC)
WORKER = WorkerInfo(
    id="1",
    name="w",
    queue_names=("q",),
    host="h",
    pid=1,
    started_at=AT,
    last_beat_at=AT,
    concurrency=2,
    batch_size=1,
    free_count=1,
    paused=False,
    lifo=True,
    names=frozenset({"a"}),
    max_global_concurrency=None,
    limiter=RateLimit(1, "1s"),
    group=GroupLimit(1, RateLimit(1, "1s")),
    running_count=1,
    ready_count=0,
    running=(RunningJob(id="1", name="a", started_at=AT),),
)
RUN = Attempt(number=1, worker="w", started_at=AT, ended_at=None, outcome="failed", message="m")
DOCUMENTS = [
    JobOptions(attempts=3, backoff=Backoff("linear", 2), keep=Retention(age=timedelta(days=1))),
    Report(error=Failure(type="E", message="m"), logs=["a"], history=[RUN]),
    ScheduleSpec(key="k", job=JobRecord(queue="q", id="", name="x"), misfire=RunAll(3)),
    ScheduleState(since=AT, next=None),
    WORKER,
    JobRecord(queue="q", id="a", name="x", parent=JobKey("q", "b"), unique_for=timedelta(hours=1)),
    JobRetrying(queue_name="q", job_id="a", at=AT, reason="boom", attempts_made=1),
]


def later(document: Any) -> Any:
    """A document as a later release may write it: with something more in every object."""
    match document:
        case dict():
            return {name: later(value) for name, value in document.items()} | {"hologram": True}
        case list():
            return [later(value) for value in document]
        case _:
            return document


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_what_a_later_release_has_added_to_a_document_is_passed_over(document: object) -> None:
    text = json.dumps(later(json.loads(_documents.encode(document))))

    assert _documents.decode(type(document), text) == document


def test_what_cannot_be_read_is_not_quoted() -> None:
    with pytest.raises(ValueError, match=r"^\$\.attempts: ") as refused:
        JobOptions.decode('{"attempts":"a secret"}')

    assert "secret" not in str(refused.value)
