"""A flow as its user gives it, and as the flat records of its jobs, children first.

No step recurses: a flow may be deeper than Python's stack.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Unpack

from conveyor.core._argument_checks import several
from conveyor.core.errors import InvalidOptionError, PayloadError
from conveyor.core.job_options import AddOptions
from conveyor.core.store import JobKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from conveyor.core._jobs.builder import RecordBuilder
    from conveyor.core.job_options import JobOptions, Parsed
    from conveyor.core.store import JobRecord

_CHILDREN: Final = "children"


@dataclass(frozen=True, init=False, eq=False, repr=False)
class FlowJob:
    """A job of a flow, and the jobs that it waits for: what `add` takes, as a value.

    It runs when all its `children` have ended. `fail_parent_on_child_failure` says what becomes of it when
    one of them fails.
    """

    name: str
    queue_name: str
    data: Any
    children: tuple[FlowJob, ...]
    options: AddOptions

    def __init__(
        self,
        name: str,
        queue_name: str,
        data: Any = None,
        *,
        children: Iterable[FlowJob] = (),
        **options: Unpack[AddOptions],
    ) -> None:
        """Describe a job; nothing is added yet.

        Raises InvalidOptionError unless `children` are FlowJobs. The rest is checked when the flow is added.
        """
        put = object.__setattr__
        put(self, "name", name)
        put(self, "queue_name", queue_name)
        put(self, "data", data)
        put(self, "children", flow_jobs(children, _CHILDREN))
        put(self, "options", options)

    def __repr__(self) -> str:
        """Never the data: it may be secret; nor the children: they may be many."""
        return f"<FlowJob {self.name!r} of {self.queue_name!r}, {len(self.children)} children>"


def flow_jobs(given: object, option: str) -> tuple[FlowJob, ...]:
    """The jobs given, as a tuple.

    Raises InvalidOptionError for anything but an iterable of FlowJobs.
    """
    return tuple(several(given, option, FlowJob, "FlowJob(name, queue_name, data, …)"))


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """A job of a flow on its way to its record."""

    flow: FlowJob
    above: Node | None
    #: Where it stands among those beside it.
    number: int
    beside: str
    parsed: Parsed = field(init=False)
    record: JobRecord = field(init=False)
    children: list[Node] = field(init=False, default_factory=list)

    @property
    def path(self) -> str:
        """How to get to it, as in `children[1].children[0]`."""
        steps = []
        node: Node | None = self
        while node is not None:
            if node.beside:
                steps.append(f"{node.beside}[{node.number}]")
            node = node.above
        return ".".join(reversed(steps))


def build_nodes(
    flows: Sequence[FlowJob],
    beside: str,
    builder_of: Callable[[str], RecordBuilder[Any]],
    parent: tuple[JobKey, JobOptions] | None = None,
) -> list[Node]:
    """The jobs of these flows, each with its record, children before their parents, siblings in order.

    `parent` is the job that waits for the flows themselves, with its options.

    Raises InvalidOptionError and PayloadError with the path of the job concerned.
    """
    nodes = _nodes(flows, beside)
    for node in nodes:
        _fill(node, builder_of)
    for node in nodes:
        key, options = (
            parent or (None, None)
            if node.above is None
            else (node.above.record.key, node.above.parsed.settings)
        )
        if key is None and not node.children:
            continue
        settings = replace(
            node.parsed.settings,
            children=tuple(child.record.id for child in node.children),
            fails_parent=options is not None and options.fail_parent_on_child_failure != "ignore",
        )
        node.record = replace(node.record, parent=key, options=settings.encode())
    _check_ids(nodes)
    return nodes


def _nodes(flows: Sequence[FlowJob], beside: str) -> list[Node]:
    found: list[Node] = []
    todo = [Node(flow, None, number, beside) for number, flow in enumerate(flows)]
    while todo:
        node = todo.pop()
        found.append(node)
        node.children = [Node(one, node, n, _CHILDREN) for n, one in enumerate(node.flow.children)]
        todo += node.children
    # Each job came before its children, the last of them first.
    found.reverse()
    return found


def _fill(node: Node, builder_of: Callable[[str], RecordBuilder[Any]]) -> None:
    """Make a node's record."""
    flow = node.flow
    try:
        builder = builder_of(flow.queue_name)
        node.parsed = builder.parsed(flow.options)
        node.record = builder.record(flow.name, flow.data, node.parsed)
    except InvalidOptionError as error:
        if not node.path:
            raise
        raise InvalidOptionError(f"{node.path}.{error.option}", error.value, error.allowed) from None
    except PayloadError as error:
        if not node.path:
            raise
        raise PayloadError(f"{node.path}.data{error.path.removeprefix('$')}", error.reason) from None


def _check_ids(nodes: Iterable[Node]) -> None:
    """Refuse an id that stands for two jobs: in its queue, or to the parent that asks for its result."""
    seen = set[JobKey]()
    for node in nodes:
        if node.record.key in seen:
            _refuse(node, "another job of this call has this id in this queue")
        seen.add(node.record.key)
        known = set[str]()
        for child in node.children:
            if child.record.id in known:
                _refuse(child, "another child of the same parent has this id, and results are known by it")
            known.add(child.record.id)


def _refuse(node: Node, why: str) -> None:
    option = ".".join(filter(None, [node.path, "job_id"]))
    raise InvalidOptionError(option, node.record.id, why)


def subtree(node: Node) -> Iterator[Node]:
    """A node and everything below it."""
    todo = [node]
    while todo:
        found = todo.pop()
        yield found
        todo += found.children
