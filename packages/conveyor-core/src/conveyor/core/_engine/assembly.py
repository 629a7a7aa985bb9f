"""The parts of a worker, made and wired: poller → executor → settler, with the heartbeat beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conveyor.core._engine.event_subscriber import EventSubscriber
from conveyor.core._engine.executor import Executor
from conveyor.core._engine.heartbeat import Heartbeat
from conveyor.core._engine.maintenance import Maintenance
from conveyor.core._engine.outcome_policy import OutcomePolicy
from conveyor.core._engine.parent_follow_up import Parents
from conveyor.core._engine.poller import Poller
from conveyor.core._engine.processes.pool import Processes
from conveyor.core._engine.registration import Registration
from conveyor.core._engine.run_opener import RunOpener
from conveyor.core._engine.scheduler import Scheduler
from conveyor.core._engine.settler import Settler

if TYPE_CHECKING:
    from collections.abc import Callable

    from conveyor.core._engine.run import Run
    from conveyor.core._engine.worker_context import WorkerContext
    from conveyor.core._engine.worker_options import Handling, Rules
    from conveyor.core._jobs.settlements import Settlement
    from conveyor.core.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """What the parts call of their worker."""

    #: Makes what a handler is given of a run.
    job_of: Callable[[Run], Job[Any]]
    #: What the worker says of itself in its registration.
    described: Callable[[], str]
    #: An outcome is written, or is not to be written any more.
    applied: Callable[[Settlement], None]
    #: A slot came back, with what becomes of a job, if one has ended.
    freed: Callable[[Settlement | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of a worker."""

    registration: Registration
    heartbeat: Heartbeat
    parents: Parents
    settler: Settler
    executor: Executor
    poller: Poller
    maintenance: Maintenance
    scheduler: Scheduler
    subscriber: EventSubscriber


def assemble(
    context: WorkerContext,
    handling: Handling,
    rules: Rules,
    policy: OutcomePolicy,
    callbacks: Callbacks,
    *,
    id: str,
    maintenance_interval: float,
) -> Parts:
    """Make the parts of a worker."""
    registration = Registration(context=context, id=id, payload=callbacks.described)
    heartbeat = Heartbeat(
        context=context, registration=registration, backoff=context.backoff("renewing leases")
    )
    parents = Parents(context=context, keep=policy.keep, backoff=context.backoff("looking after parents"))
    settler = Settler(
        context=context,
        heartbeat=heartbeat,
        policy=policy,
        backoff=context.backoff("writing outcomes"),
        applied=callbacks.applied,
        written=parents.note,
    )
    executor = Executor(
        context=context,
        handler=handling.handler,
        batched=handling.batch is not None,
        job_of=callbacks.job_of,
        concurrency=handling.concurrency,
        policy=policy,
        settler=settler,
        freed=callbacks.freed,
        processes=_processes_of(context, handling, callbacks),
    )
    poller = _poller_of(context, handling, rules, policy, executor)
    scheduler = Scheduler(context=context, backoff=context.backoff("firing schedules"))
    return Parts(
        registration=registration,
        heartbeat=heartbeat,
        parents=parents,
        settler=settler,
        executor=executor,
        poller=poller,
        maintenance=Maintenance(
            context=context,
            names=handling.names,
            interval=maintenance_interval,
            backoff=context.backoff("removing old jobs"),
        ),
        scheduler=scheduler,
        subscriber=EventSubscriber(
            context=context,
            poller=poller,
            scheduler=scheduler,
            heartbeat=heartbeat,
            backoff=context.backoff("listening to events"),
        ),
    )


def _poller_of(
    context: WorkerContext, handling: Handling, rules: Rules, policy: OutcomePolicy, executor: Executor
) -> Poller:
    settler = executor.settler
    opener = RunOpener(
        context=context,
        payloads=handling.payloads,
        policy=policy,
        rules=rules,
        heartbeat=settler.heartbeat,
    )
    return Poller(
        context=context,
        rules=rules,
        opener=opener,
        executor=executor,
        settler=settler,
        heartbeat=settler.heartbeat,
        backoff=context.backoff("claiming jobs"),
    )


def _processes_of(context: WorkerContext, handling: Handling, callbacks: Callbacks) -> Processes | None:
    options = handling.processes
    if options is None:
        return None
    return Processes(
        plan=handling.plan,
        size=options.count,
        kill_after=options.kill_after,
        clock=context.clock,
        changed=lambda: callbacks.freed(None),
    )
