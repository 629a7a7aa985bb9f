"""What users get: every wheel of the monorepo, in clean environments that know nothing of the workspace.

The distributions are found by their folders, so that a new store is covered from its first day.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

# One worker does all of it: the environments below are made once a run.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheels")]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    name: str
    folder: Path

    @property
    def module(self) -> str:
        return self.name.replace("-", ".")

    @property
    def source(self) -> Path:
        return self.folder / "src"


def _distribution(pyproject: Path) -> Distribution:
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    return Distribution(name=project["name"], folder=pyproject.parent)


OURS = [
    _distribution(pyproject)
    for pyproject in sorted(
        [*ROOT.glob("packages/*/pyproject.toml"), ROOT / "shared-tests" / "pyproject.toml"]
    )
]
NAMESPACES = ["conveyor", "conveyor.store", "conveyor.testing"]
each_of_ours = pytest.mark.parametrize("distribution", OURS, ids=lambda distribution: distribution.name)

# A stranger's store, which takes a place in our namespace without asking.
OUTSIDE_PROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "conveyor-store-outside"
version = "3.2.1"
dependencies = ["conveyor-core"]

[tool.hatch.build.targets.wheel]
packages = ["src/conveyor"]
"""

# The second way of the suite's README: a store's own test file.
OWN_CLASS = """\
import pytest_asyncio
from conveyor.conformance import StoreContract
from conveyor.store.memory import MemoryStore

class TestMyStore(StoreContract):
    @pytest_asyncio.fixture
    async def store(self):
        async with MemoryStore.from_url("memory:") as store:
            yield store

    @pytest_asyncio.fixture
    async def peer(self, store):
        return store
"""

IMPORT_EVERY_MODULE = """\
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
print(package.__file__)
"""

IMPORT_TOGETHER = """\
import importlib, json, sys
print(json.dumps({name: importlib.import_module(name).__file__ for name in sys.argv[1:]}))
"""


class Environment:
    """A virtual environment of the running Python, empty at first."""

    def __init__(self, path: Path, wheels: dict[str, Path]) -> None:
        self.path = path
        self.interpreter = path / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        # Our own names are held to the wheels just built, never to a release on the index.
        self._constraints = path.with_suffix(".txt")
        self._constraints.write_text(
            "".join(f"{name} @ {wheel.as_uri()}\n" for name, wheel in wheels.items()), "utf-8"
        )
        _run(find_uv_bin(), "venv", "--quiet", "--python", sys.executable, str(path))

    def install(self, *requirements: str) -> None:
        """Install the requirements and what they declare, and make sure that nothing contradicts anything."""
        constraints = ["--constraint", str(self._constraints)] if "--editable" not in requirements else []
        self._uv("install", *constraints, *requirements)
        self._uv("check")

    def run(self, program: str, *arguments: str) -> str:
        return _run(str(self.interpreter), "-I", "-c", program, *arguments, cwd=self.path)

    def _uv(self, command: str, *arguments: str) -> None:
        _run(find_uv_bin(), "pip", command, "--quiet", "--python", str(self.interpreter), *arguments)


def _run(*command: str, cwd: Path | None = None, refused: bool = False) -> str:
    done = subprocess.run(command, cwd=cwd, env=_environ(), capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == refused, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _environ() -> dict[str, str]:
    unwanted = {"VIRTUAL_ENV", "PYTHONPATH", "MYPYPATH"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def _build(distribution: Distribution, into: Path) -> Path:
    folder = into / distribution.name
    _run(
        sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=distribution.folder
    )
    [wheel] = folder.iterdir()
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    into = tmp_path_factory.mktemp("wheels")
    return {distribution.name: _build(distribution, into) for distribution in OURS}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    folder = tmp_path_factory.mktemp("outside")
    package = folder / "src" / "conveyor" / "store" / "outside"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from conveyor.core.errors import ConveyorError as ConveyorError\n", "utf-8"
    )
    (package / "py.typed").touch()
    (folder / "pyproject.toml").write_text(OUTSIDE_PROJECT, "utf-8")
    return Distribution(name="conveyor-store-outside", folder=folder)


@pytest.fixture(scope="module")
def installed(
    tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path], outside: Distribution
) -> Environment:
    """Everything of ours and the stranger's store, from wheels."""
    environment = Environment(tmp_path_factory.mktemp("installed") / "env", wheels)
    environment.install(*map(str, wheels.values()), str(_build(outside, environment.path)))
    return environment


@pytest.fixture(scope="module")
def reused(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Environment:
    """For one thing after the other: what both need stays there, compiled."""
    return Environment(tmp_path_factory.mktemp("reused") / "env", wheels)


@pytest.fixture(scope="module")
def editable(
    tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path], outside: Distribution
) -> Environment:
    """Everything of ours and the stranger's store, editable."""
    environment = Environment(tmp_path_factory.mktemp("editable") / "env", wheels)
    folders = [distribution.folder for distribution in [*OURS, outside]]
    environment.install(*(word for folder in folders for word in ("--editable", str(folder))))
    return environment


def test_the_tests_of_a_group_run_in_one_process(request: pytest.FixtureRequest) -> None:
    # pytest-xdist names the group behind an `@`, and tells by that; a pytest that hides it splits the group
    grouped = request.config.getvalue("loadgroup") if "PYTEST_XDIST_WORKER" in os.environ else False

    assert request.node.nodeid.endswith("@wheels") == grouped


@each_of_ours
def test_a_wheel_holds_its_whole_source_tree_and_no_namespace(
    distribution: Distribution, wheels: dict[str, Path]
) -> None:
    sources = {
        file.relative_to(distribution.source).as_posix()
        for file in distribution.source.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }

    with zipfile.ZipFile(wheels[distribution.name]) as wheel:
        inside = set(wheel.namelist())

    metadata = {name for name in inside if name.partition("/")[0].endswith(".dist-info")}
    assert inside - metadata == sources
    assert f"{distribution.module.replace('.', '/')}/py.typed" in inside
    assert inside.isdisjoint(f"{name.replace('.', '/')}/__init__.py" for name in NAMESPACES)
    assert any(name.endswith("/licenses/LICENSE") for name in metadata)


@each_of_ours
def test_a_wheel_needs_only_what_it_declares(
    distribution: Distribution, wheels: dict[str, Path], reused: Environment
) -> None:
    reused.install("--exact", str(wheels[distribution.name]))

    found = reused.run(IMPORT_EVERY_MODULE, distribution.module)
    assert Path(found.strip()).is_relative_to(reused.path)


def test_the_namespaces_stay_open_when_installed_from_wheels(
    installed: Environment, outside: Distribution
) -> None:
    modules = [distribution.module for distribution in [*OURS, outside]]

    files = json.loads(installed.run(IMPORT_TOGETHER, *NAMESPACES, *modules))

    assert [files.pop(name) for name in NAMESPACES] == [None] * len(NAMESPACES)
    assert all(Path(files[module]).is_relative_to(installed.path) for module in modules)


def test_the_namespaces_stay_open_when_installed_editable(
    editable: Environment, outside: Distribution
) -> None:
    folders = {distribution.module: distribution.source for distribution in [*OURS, outside]}

    files = json.loads(editable.run(IMPORT_TOGETHER, *NAMESPACES, *folders))

    assert [files.pop(name) for name in NAMESPACES] == [None] * len(NAMESPACES)
    assert all(Path(files[module]).is_relative_to(source) for module, source in folders.items())


def test_the_conformance_suite_runs_from_wheels_by_the_name_of_a_scheme(installed: Environment) -> None:
    output = _conformance(
        installed,
        *("--pyargs", "conveyor.conformance", "--conveyor-store", "memory"),
        # The whole of it runs on the memory store elsewhere; here it is about what the wheels bring.
        *("-k", "renew"),
    )

    verdict = r"^memory \(conveyor-store-memory [0-9.]+\): passes the part that ran$"
    assert re.search(verdict, output, re.MULTILINE)


def test_the_conformance_suite_runs_from_wheels_as_a_class(installed: Environment, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(OWN_CLASS, "utf-8")

    output = _conformance(installed, str(tmp_path), "-k", "renew")

    assert "passes the part that ran" in output


def _conformance(environment: Environment, *arguments: str) -> str:
    return _run(
        *(str(environment.interpreter), "-m", "pytest", "-p", "no:cacheprovider", *arguments),
        cwd=environment.path,
    )


def _mypy(folder: Path, interpreter: Path) -> set[tuple[str, int]]:
    output = _run(
        *(
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--no-error-summary",
            "--hide-error-context",
        ),
        *("--python-executable", str(interpreter), "--output=json", "right.py", "wrong.py"),
        *("--cache-dir", str(interpreter.parents[1] / "mypy")),  # one for all checks: ours are read once
        cwd=folder,
        refused=True,
    )
    found: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
    return {(error["file"], error["line"]) for error in found}


def _pyright(folder: Path, interpreter: Path) -> set[tuple[str, int]]:
    output = _run(
        *(sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", str(interpreter)),
        *("right.py", "wrong.py"),
        cwd=folder,
        refused=True,
    )
    found: list[dict[str, Any]] = json.loads(output)["generalDiagnostics"]
    return {(Path(error["file"]).name, error["range"]["start"]["line"] + 1) for error in found}


@pytest.mark.parametrize("check", [_mypy, _pyright], ids=["mypy", "pyright"])
def test_a_type_checker_sees_the_types_of_an_editable_install(
    check: Callable[[Path, Path], set[tuple[str, int]]],
    editable: Environment,
    outside: Distribution,
    tmp_path: Path,
) -> None:
    modules = [distribution.module for distribution in [*OURS, outside]]
    right = [
        *(f"import {module}" for module in modules),
        "from conveyor.core.errors import ConveyorError",
        "from conveyor.store.outside import ConveyorError as Same",
        "error: type[ConveyorError] = Same",
        *(f"print({module}.__name__)" for module in modules),
    ]
    wrong = [
        *(f"import {module}" for module in modules),
        "from conveyor.store.outside import ConveyorError",
        "number: int = ConveyorError()",
        *(f"number = {module}" for module in modules),
    ]
    (tmp_path / "right.py").write_text("\n".join(right) + "\n", "utf-8")
    (tmp_path / "wrong.py").write_text("\n".join(wrong) + "\n", "utf-8")

    errors = check(tmp_path, editable.interpreter)

    assert errors == {("wrong.py", line) for line in range(len(modules) + 2, len(wrong) + 1)}


RIGHT_TYPES = """\
from dataclasses import dataclass

from conveyor.core import Batch, Job, NewJob, Queue, Worker, open_store


@dataclass
class Email:
    to: str


@dataclass
class Receipt:
    number: int


store = open_store("memory:")
plain = Queue("q", store)
emails = Queue("q", store, payload=Email)
typed = Queue("q", store, payload=Email, result=Receipt)
one: Queue[Email] = Queue("q", store, payload=Email)
both: Queue[Email, Receipt] = Queue("q", store, payload=Email, result=Receipt)


async def send(job: Job[Email]) -> Receipt:
    await job.log(job.data.to)
    return Receipt(len(job.data.to))


async def weigh(job: Job[Receipt]) -> int:
    return job.data.number


async def bare(job: Job) -> object:
    return job.data["any"]


async def many(jobs: list[Job[Email]]) -> list[int]:
    return [len(job.data.to) for job in jobs]


def block(job: Job[Email]) -> None:
    job.update_progress(50)


handlers = [
    Worker("q", send, store),
    Worker("q", {"send": send, "weigh": weigh, "bare": bare, "block": block}, store),
    Worker("q", many, store, batch=Batch(10)),
    Worker("q", block, store, payload=Email, result=Receipt, max_payload_bytes=10, max_result_bytes=10),
]


async def main() -> None:
    print((await plain.add("a", {"any": 1})).data["any"])
    print((await (await plain.add("a")).wait_until_finished())["any"])
    job: Job[Email] = await emails.add("a", Email("ada"))
    receipt: Receipt = await (await typed.add("a", job.data)).wait_until_finished()
    print(receipt.number, (await both.add("a", job.data)).return_value)
    await emails.add_bulk([NewJob("a", Email("ada"))])
    found = await typed.get_job("a")
    if found is not None:
        print(found.data.to, await typed.get_jobs(after=found))
"""

WRONG_TYPES = """\
from right import Email, Receipt, store, typed
from conveyor.core import Job, Worker


async def weigh(job: Job[Receipt]) -> None:
    print(job.data.to)  # wrong


async def main() -> None:
    await typed.add("a", Receipt(1))  # wrong
    job = await typed.add("a", Email("ada"))
    print(job.data.number)  # wrong
    number: int = await job.wait_until_finished()  # wrong
    print(number, (await job.wait_until_finished()).to)  # wrong
    Worker("q", weigh, store, payload=Email)  # wrong
"""


@pytest.mark.parametrize("check", [_mypy, _pyright], ids=["mypy", "pyright"])
def test_a_type_checker_knows_the_types_of_data_and_results(
    check: Callable[[Path, Path], set[tuple[str, int]]], editable: Environment, tmp_path: Path
) -> None:
    (tmp_path / "right.py").write_text(RIGHT_TYPES, "utf-8")
    (tmp_path / "wrong.py").write_text(WRONG_TYPES, "utf-8")

    errors = check(tmp_path, editable.interpreter)

    lines = enumerate(WRONG_TYPES.splitlines(), 1)
    assert errors == {("wrong.py", number) for number, line in lines if line.endswith("# wrong")}
