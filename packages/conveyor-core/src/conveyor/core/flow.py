"""FlowProducer: adding flows, trees of jobs in which each job waits for its children."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from conveyor.core._argument_checks import checked_clock, checked_store, several
from conveyor.core._jobs.builder import as_identified, as_stored
from conveyor.core._jobs.flow_graph import FlowJob, Node, build_nodes, flow_jobs, subtree
from conveyor.core._jobs.payload import MAX_BYTES
from conveyor.core._jobs.settlements import event_for
from conveyor.core.errors import (
    InvalidOptionError,
    JobExistsError,
    LeaseLostError,
    UnsupportedFeatureError,
)
from conveyor.core.job_options import Parsed, whole
from conveyor.core.queue import Queue
from conveyor.core.store import Feature, JobKey, JobRecord, JobState, Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from conveyor.core._engine.run import Run
    from conveyor.core._enqueue import Enqueuer
    from conveyor.core._jobs.builder import RecordBuilder
    from conveyor.core.clock import Clock
    from conveyor.core.job import Job
    from conveyor.core.store import Inserted, Store

__all__ = ["FlowJob", "FlowProducer", "FlowResult"]

#: A flow is refused for an id, and that is gone a moment later: this often in a row is no accident.
_TRIES: Final = 10
_PAGE: Final = 500


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FlowResult:
    """A job of a flow that was added, and its children's, in the order given.

    Where a job's deduplication key was held, `job` is its holder, with `deduplicated` true, and there are
    no children: they were not added.
    """

    job: Job[Any]
    children: tuple[FlowResult, ...] = ()

    def __repr__(self) -> str:
        """The job, and how many children it has: they may be many."""
        return f"<FlowResult {self.job!r}, {len(self.children)} children>"


class FlowProducer:
    """Adds flows to a store.

    Jobs of the `queues` given take their payload types and default options from these; a queue that is not
    among them has neither.
    """

    def __init__(
        self,
        store: Store,
        *,
        queues: Iterable[Queue[Any]] = (),
        max_payload_bytes: int = MAX_BYTES,
        clock: Clock | None = None,
    ) -> None:
        """Make a producer.

        Raises InvalidOptionError for an option that cannot be used, UnsupportedFeatureError if the store
        does not offer flows. `clock` is for tests.
        """
        _offered(checked_store(store))
        self._store = store
        self._clock = checked_clock(clock)
        self._queues = _Queues(
            store, queues, self._clock, whole(max_payload_bytes, "max_payload_bytes", least=1)
        )

    async def add(self, flow: FlowJob) -> FlowResult:
        """Add a flow in one step: all of its jobs, or, if an error is raised, none.

        A job waits for its children, and its own `delay` counts from the end of the last. A job whose
        deduplication key is held is not added, nor is what is below it: it counts as done.

        Raises InvalidOptionError or PayloadError with the path of the job concerned, before anything is
        stored; JobExistsError if a `job_id` is taken; GroupFullError if a group is full.
        """
        [result] = await self._add(flow_jobs([flow], "flow"), "")
        return result

    async def add_bulk(self, flows: Iterable[FlowJob]) -> list[FlowResult]:
        """Add flows in one step: all of them, or, if an error is raised, none. Returned in order."""
        return await self._add(flow_jobs(flows, "flows"), "flows")

    async def _add(self, flows: Sequence[FlowJob], beside: str) -> list[FlowResult]:
        nodes = build_nodes(flows, beside, self._queues.builder)
        if not nodes:
            return []
        inserted = await self._insert(nodes)
        at = self._clock.now()
        await self._store.bus.publish([event_for(found, at) for found in inserted if found.created])
        return await _results(self._queues, nodes, inserted)

    async def _insert(self, nodes: Sequence[Node]) -> Sequence[Inserted]:
        records = [node.record for node in nodes]
        for _ in range(_TRIES):
            inserted = await self._store.insert(records, new_only=True)
            # A job that is left out because its key is held is reported as another one.
            refused = any(
                not found.created and found.key == node.record.key
                for node, found in zip(nodes, inserted, strict=True)
                if node.above is None
            )
            if not refused:
                return inserted
            there = await existing(self._store, nodes)
            for node in nodes:
                if node.record.key in there:
                    raise JobExistsError(*node.record.key, node.path)
        raise JobExistsError(*nodes[-1].record.key, nodes[-1].path)


async def add_children(
    store: Store, clock: Clock, run: Run, given: Iterable[FlowJob], queues: Iterable[Any], *, max_bytes: int
) -> None:
    """Note the children that a running handler adds: its outcome adds them.

    Those that it has already, by their ids, are passed over.
    """
    _offered(store)
    flows = flow_jobs(given, "children")
    builder_of = _Queues(store, queues, clock, max_bytes).builder
    nodes = build_nodes(flows, "children", builder_of, (run.record.key, run.settings))
    there = await existing(store, nodes)
    if run.over:
        raise LeaseLostError(run.record.id)  # it ended while they were looked for
    known = set[JobKey]()
    for node in nodes:
        found = there.get(node.record.key)
        if node.above is None and found is not None and found.parent == run.record.key:
            known.update(one.record.key for one in subtree(node))
    asked = {record.key for record in run.children}
    adding = [node for node in nodes if node.record.key not in known]
    for node in adding:
        if node.record.key in there:
            raise JobExistsError(*node.record.key, node.path)
        if node.record.key in asked:
            allowed = "this run has added a job with this id already"
            raise InvalidOptionError(f"{node.path}.job_id", node.record.id, allowed)
    run.children += [node.record for node in adding]


async def existing(store: Store, nodes: Iterable[Node]) -> dict[JobKey, JobRecord]:
    """Which of these jobs exist, by the ids that their user gave them."""
    wanted: dict[str, list[str]] = {}
    for node in nodes:
        if node.parsed.job_id is not None:
            wanted.setdefault(node.record.queue, []).append(node.record.id)
    found: dict[JobKey, JobRecord] = {}
    for queue, ids in wanted.items():
        for start in range(0, len(ids), _PAGE):
            page = frozenset(ids[start : start + _PAGE])
            found |= {r.key: r for r in await store.find(Where(queue=queue, ids=page), limit=len(page))}
    return found


async def _results(queues: _Queues, nodes: Sequence[Node], inserted: Sequence[Inserted]) -> list[FlowResult]:
    # The holders of keys take what replaces their data, as when a single job is added.
    duplicates: dict[str, list[tuple[JobRecord, Parsed, JobKey]]] = {}
    for node, found in zip(nodes, inserted, strict=True):
        if not found.created and found.key != node.record.key:
            duplicates.setdefault(found.key.queue, []).append((node.record, node.parsed, found.key))
    there = {queue: await queues.enqueuer(queue).existing(given) for queue, given in duplicates.items()}
    results: dict[Node, FlowResult] = {}
    for node, found in zip(nodes, inserted, strict=True):
        job_of = queues.enqueuer(node.record.queue).job_of
        if found.created:
            children = tuple(results[child] for child in node.children)
            results[node] = FlowResult(job_of(_as_added(node.record, found)), children)
        else:
            holder = there.get(found.key.queue, {}).get(found.key.id) or as_identified(node.record, found)
            results[node] = FlowResult(job_of(holder, deduplicated=True))
    return [results[node] for node in nodes if node.above is None]


def _as_added(record: JobRecord, found: Inserted) -> JobRecord:
    stored = as_stored(record, found)
    if found.state is JobState.WAITING_CHILDREN:
        return replace(stored, delay=record.delay, run_at=record.run_at)
    return stored


class _Queues:
    """The queues of flows, by their names: those given, and plain ones for the rest."""

    def __init__(self, store: Store, given: Iterable[Queue[Any]], clock: Clock, max_bytes: int) -> None:
        self._store = store
        self._clock = clock
        self._max_bytes = max_bytes
        self._known: dict[str, Queue[Any]] = {}
        for queue in several(given, "queues", Queue, "Queue(name, store)"):
            if self._known.setdefault(queue.name, queue) is not queue:
                raise InvalidOptionError("queues", queue, f"there are two queues of the name {queue.name!r}")
        self._enqueuers: dict[str, Enqueuer[Any]] = {}

    def enqueuer(self, name: str) -> Enqueuer[Any]:
        """Adds jobs to the queue of this name. Raises InvalidOptionError."""
        if isinstance(name, str) and name in self._enqueuers:
            return self._enqueuers[name]
        queue = self._known.get(name) if isinstance(name, str) else None
        if queue is None:
            try:
                queue = Queue(name, self._store, max_payload_bytes=self._max_bytes, clock=self._clock)
            except InvalidOptionError as error:
                raise InvalidOptionError("queue_name", error.value, error.allowed) from None
        # Whatever store it was made with: the jobs that are returned are to be found where they were added.
        self._enqueuers[name] = queue._enqueuer.of_store(self._store)  # noqa: SLF001 - jobs are added as by the queue
        return self._enqueuers[name]

    def builder(self, name: str) -> RecordBuilder[Any]:
        """Makes the records of jobs of the queue of this name. Raises InvalidOptionError."""
        return self.enqueuer(name).builder


def _offered(store: Store) -> None:
    if Feature.FLOWS not in store.features:
        raise UnsupportedFeatureError(type(store).__name__, Feature.FLOWS)
