"""Who may import what: the layers of the packages, read from the source text of every package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("packages/*/src"), ROOT / "shared-tests" / "src"])

CORE = "conveyor.core"
SUITE = "conveyor.conformance"
#: What stores on SQL databases share: the one other package that a store may import.
SHARED_SQL = "conveyor.store.sql"
# Namespaces whose packages are distributions of their own.
SHARED = ("conveyor.store", "conveyor.testing")
# What the author of a store may use of core; docs/writing-a-store.md names the same.
STORE_SURFACE = tuple(f"conveyor.core.{name}" for name in ("store", "events", "errors", "durations"))

# They run code found in data, or (marshal, shelve) are pickle by another name.
UNSAFE_MODULES = {"pickle", "marshal", "shelve"}
UNSAFE_BUILTINS = {"eval", "exec", "__import__"}
# Two places turn a name into a module: the one looks for installed stores, the other is for the processes
# of a worker, which import the handlers that it was given. Neither reads a name from a row.
MAY_IMPORT_BY_NAME = ("conveyor.core.discovery", "conveyor.core._engine.processes.import_paths")


def breaches(source: str, module: str) -> list[str]:
    """Every place where `source`, the text of `module`, breaks an import rule, as `module:line: rule`."""
    return [
        f"{module}:{line}: {rule}"
        for node in ast.walk(ast.parse(source))
        for line, rule in _breaches_of(node, module)
    ]


def _breaches_of(node: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Import(names=names):
            for name in names:
                yield from ((node.lineno, rule) for rule in _forbidden(name.name, module))
        case ast.ImportFrom(level=0, module=str(parent), names=names):
            for name in names:
                yield from ((node.lineno, rule) for rule in _forbidden(f"{parent}.{name.name}", module))
        case ast.ImportFrom():
            yield node.lineno, "imports are absolute"
        case ast.Name(id=name) if name in UNSAFE_BUILTINS:
            yield node.lineno, f"{name} is not used"
        case ast.Attribute(value=ast.Name(id="builtins"), attr=name) if name in UNSAFE_BUILTINS:
            yield node.lineno, f"{name} is not used"
        case ast.Attribute(attr="import_module") if module not in MAY_IMPORT_BY_NAME:
            yield node.lineno, f"only {' and '.join(MAY_IMPORT_BY_NAME)} import by name"
        case _:
            pass


def _forbidden(target: str, module: str) -> Iterator[str]:
    package = _package(module)
    top = target.partition(".")[0]
    if top == "conveyor" and not any(_within(target, allowed) for allowed in _may_import(package)):
        yield f"{package} may not import {target}"
    if top in {"pytest", "_pytest", "pytest_asyncio"} and package != SUITE:
        yield f"only {SUITE} imports {top}"
    if top in UNSAFE_MODULES:
        yield f"{top} is not used"
    if top == "builtins" and target.partition(".")[2] in UNSAFE_BUILTINS:
        yield f"{target} is not used"
    if (target == "importlib.import_module" or top == "runpy") and module not in MAY_IMPORT_BY_NAME:
        yield f"only {' and '.join(MAY_IMPORT_BY_NAME)} import by name"


def _may_import(package: str) -> tuple[str, ...]:
    match package:
        case "conveyor.core":
            return (CORE,)
        case "conveyor.conformance":
            return (SUITE, CORE, "conveyor.store.memory")  # the reference that the model test compares with
        case _:
            return (package, SHARED_SQL, *STORE_SURFACE)


def _package(module: str) -> str:
    parts = 3 if any(_within(module, shared) for shared in SHARED) else 2
    return ".".join(module.split(".")[:parts])


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _module(file: Path, source: Path) -> str:
    parts = file.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.parent.name)
def test_a_package_imports_only_what_its_layer_may(source: Path) -> None:
    files = sorted(source.rglob("*.py"))

    found = [breach for file in files for breach in breaches(file.read_text("utf-8"), _module(file, source))]

    assert files
    assert found == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("conveyor.core.queue", "import conveyor.store.memory"),
        ("conveyor.core.queue", "from conveyor import store"),
        ("conveyor.core.queue", "from conveyor.store import memory"),
        ("conveyor.core.queue", "from conveyor.conformance import StoreContract"),
        ("conveyor.core.testing", "import pytest"),
        ("conveyor.store.sqlite.store", "from conveyor.core import Queue"),
        ("conveyor.store.sqlite.store", "from conveyor.core import *"),
        ("conveyor.store.sqlite.store", "import conveyor.core"),
        ("conveyor.store.sqlite.store", "from conveyor.core._jobs.payload import encode"),
        ("conveyor.store.sqlite.store", "from conveyor.core.storekeeping import rows"),
        ("conveyor.store.sqlite.store", "from conveyor.store.memory import MemoryStore"),
        ("conveyor.store.sqlite.store", "from conveyor.store import memory"),
        ("conveyor.store.sql.work", "from conveyor.store.sqlite import SqliteStore"),
        ("conveyor.store.sqlite", "from .store import SqliteStore"),
        ("conveyor.store.sqlite.testing", "from _pytest.tmpdir import TempPathFactory"),
        ("conveyor.store.pg.store", "from conveyor.testing.pg import private_server"),
        ("conveyor.testing.pg.server", "from conveyor.store.pg import PgStore"),
        ("conveyor.testing.pg.server", "import pytest"),
        ("conveyor.conformance.concurrency.model", "from conveyor.store.sqlite import SqliteStore"),
        ("conveyor.core._jobs.payload", "def f():\n    import pickle"),
        ("conveyor.core._jobs.payload", "from marshal import loads"),
        ("conveyor.core._jobs.payload", "import shelve as s"),
        ("conveyor.core._jobs.payload", "eval('1')"),
        ("conveyor.core._jobs.payload", "run = exec"),
        ("conveyor.core._jobs.payload", "import builtins\nbuiltins.eval('1')"),
        ("conveyor.core._jobs.payload", "from builtins import exec as run"),
        ("conveyor.core._jobs.payload", "__import__('os')"),
        ("conveyor.core._jobs.payload", "import importlib as i\ni.import_module('os')"),
        ("conveyor.core._jobs.payload", "from importlib import import_module"),
        ("conveyor.core._engine.processes.child", "import runpy"),
    ],
)
def test_a_planted_breach_is_caught(module: str, line: str) -> None:
    [breach] = breaches(f'"""A module."""\n\n{line}\n', module)

    assert breach.startswith(f"{module}:{3 + line.count(chr(10))}: ")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("conveyor.core.queue", "from conveyor.core.store import Store"),
        (
            "conveyor.core.discovery",
            "from importlib import import_module",
        ),
        (
            "conveyor.core._engine.processes.import_paths",
            "import importlib, runpy\nimportlib.import_module(module)",
        ),
        ("conveyor.store.sqlite.store", "from conveyor.core import errors"),
        ("conveyor.store.sqlite.store", "from conveyor.core.store import JobState"),
        ("conveyor.store.sqlite.store", "import conveyor.core.events"),
        ("conveyor.store.sqlite", "from conveyor.store.sqlite.store import SqliteStore"),
        ("conveyor.store.sqlite.sets", "from conveyor.store import sql"),
        ("conveyor.store.sqlite.sets", "from conveyor.store.sql import UnitOfWork"),
        (
            "conveyor.conformance.concurrency.model",
            "import pytest\nfrom conveyor.store.memory import MemoryStore",
        ),
        ("conveyor.core._jobs.payload", "connection.exec('begin')"),
    ],
)
def test_what_the_rules_allow_is_no_breach(module: str, line: str) -> None:
    assert breaches(line, module) == []
