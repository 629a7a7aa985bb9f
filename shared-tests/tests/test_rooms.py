"""No module imports itself by way of others, and core's rooms stand in order: read from the source text.

Every import counts: those of types only, and those within functions. A package's `__init__` re-exports what
is in it, and counts for nobody who imports one of its modules.
"""

import ast
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("packages/*/src"), *ROOT.glob("examples/*/src"), ROOT / "shared-tests" / "src"])

CORE = "conveyor.core"
#: Core's rooms, from what users meet down to what knows of nothing. A module imports from its own room and
#: from those below it; a name without a room of its own is a top-level module.
ROOMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("what users call", ("", "queue", "worker", "flow", "testing", "_enqueue", "_queue_schedules")),
    ("the parts of a worker", ("_engine",)),
    ("what a handler receives", ("job", "batch", "_handle")),
    ("what is seen of queues and their schedules", ("_inspect", "_schedules")),
    ("stored jobs", ("_jobs",)),
    (
        "options and values",
        (
            "job_options",
            "limits",
            "explanation",
            "schedules",
            "discovery",
            "_manual_clock",
            "_argument_checks",
            "_queue_names",
        ),
    ),
    ("what a store may import", ("store",)),
    ("ground", ("errors", "states", "_documents", "durations", "clock", "events", "backoff", "signals")),
)
_FLOOR = {name: floor for floor, (_, names) in enumerate(ROOMS) for name in names}


def imports(source: str, modules: Collection[str]) -> Iterator[tuple[int, str]]:
    """What a text imports of these modules, with the line: of a name it is the module that has it."""
    for line, name in _imported(source):
        target = name
        while target and target not in modules:
            target = target.rpartition(".")[0]
        if target:
            yield line, target


@cache
def _imported(source: str) -> list[tuple[int, str]]:
    """Every name that a text imports, with its module's before it."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [(node.lineno, f"{node.module}.{name.name}") for name in node.names]
    return found


def circles(sources: Mapping[str, str]) -> list[str]:
    """The modules of these that import themselves by way of others, each with one way around."""
    graph = {
        module: {target for _, target in imports(text, sources) if target != module}
        for module, text in sources.items()
    }
    found: list[str] = []
    reached: set[str] = set()
    for module in sorted(graph):
        way = _way_back(graph, module) if module not in reached else None
        if way is not None:
            reached.update(way)
            found.append(" -> ".join(way))
    return found


def _way_back(graph: Mapping[str, Collection[str]], start: str) -> list[str] | None:
    """The shortest way from a module back to itself."""
    before: dict[str, str] = {}
    todo = [start]
    for module in todo:
        for target in sorted(graph[module]):
            if target == start:
                way = [start, module]
                while way[-1] != start:
                    way.append(before[way[-1]])
                return way[::-1]
            if target not in before:
                before[target] = module
                todo.append(target)
    return None


def climbs(source: str, module: str, modules: Collection[str]) -> list[str]:
    """Every import of a module of core that leads up to a room above its own."""
    here = _FLOOR[_room(module)]
    return [
        f"{module}:{line}: {ROOMS[here][0]!r} may not import {target}, of {ROOMS[there][0]!r}"
        for line, target in imports(source, modules)
        if (target == CORE or target.startswith(f"{CORE}.")) and (there := _FLOOR[_room(target)]) < here
    ]


def _room(module: str) -> str:
    return module.removeprefix(CORE).removeprefix(".").partition(".")[0]


def _read(source: Path) -> dict[str, str]:
    return {_module(file, source): file.read_text("utf-8") for file in sorted(source.rglob("*.py"))}


def _module(file: Path, source: Path) -> str:
    parts = file.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


CORE_MODULES = _read(ROOT / "packages" / "conveyor-core" / "src")


def test_no_module_imports_itself_by_way_of_others() -> None:
    sources = {module: text for source in SOURCES for module, text in _read(source).items()}

    assert len(sources) > len(CORE_MODULES)
    assert circles(sources) == []


def test_every_module_of_core_has_a_room() -> None:
    assert {_room(module) for module in CORE_MODULES} == _FLOOR.keys()


def test_cores_rooms_import_downwards() -> None:
    found = [climb for module, text in CORE_MODULES.items() for climb in climbs(text, module, CORE_MODULES)]

    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import conveyor.core.queue",
        "from conveyor.core.queue import Queue",
        "from conveyor.core import queue",
        "def f():\n    from conveyor.core.queue import Queue",
        "if TYPE_CHECKING:\n    from conveyor.core.queue import Queue",
    ],
)
def test_a_planted_circle_is_caught(line: str) -> None:
    sources = CORE_MODULES | {"conveyor.core.clock": f"{CORE_MODULES['conveyor.core.clock']}\n{line}\n"}

    [circle, *_] = circles(sources)

    assert "conveyor.core.clock" in circle.split(" -> ")
    assert "conveyor.core.queue" in circle.split(" -> ")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("conveyor.core._engine.poller", "from conveyor.core.queue import Queue"),
        ("conveyor.core._jobs.cancel", "from conveyor.core._engine.parent_follow_up import Parents"),
        ("conveyor.core._jobs.cancel", "from conveyor.core._engine import parent_follow_up"),
        ("conveyor.core._jobs.cancel", "def f():\n    from conveyor.core._inspect import follow"),
        ("conveyor.core._schedules.rows", "if TYPE_CHECKING:\n    from conveyor.core.job import Job"),
        ("conveyor.core.job", "from conveyor.core import Queue"),
        ("conveyor.core.store.records", "from conveyor.core.job_options import JobOptions"),
        ("conveyor.core.store", "from conveyor.core._jobs.report import Report"),
        ("conveyor.core.errors", "import conveyor.core.store.values"),
    ],
)
def test_a_planted_climb_is_caught(module: str, line: str) -> None:
    [climb] = climbs(f'"""A module."""\n\n{line}\n', module, CORE_MODULES)

    assert climb.startswith(f"{module}:{3 + line.count(chr(10))}: ")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("conveyor.core.queue", "from conveyor.core._engine.run import Run"),
        ("conveyor.core._engine.executor", "from conveyor.core.job import Job"),
        ("conveyor.core._engine.executor", "from conveyor.core import clock"),
        ("conveyor.core._inspect.follow", "from conveyor.core._jobs.report import Report"),
        ("conveyor.core.store.values", "from conveyor.core.errors import ConveyorError"),
        ("conveyor.core.errors", "from conveyor.core.states import JobState"),
    ],
)
def test_what_leads_down_is_no_climb(module: str, line: str) -> None:
    assert climbs(line, module, CORE_MODULES) == []
