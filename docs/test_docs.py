"""Runs every Python example of the README files and of these pages, and checks their links.

A block that calls `asyncio.run` is a program, and runs in a process of its own. The other blocks of a page
are one session, from top to bottom, with `await` allowed anywhere, as in `python -m asyncio`. What a
`print` shows is checked where a comment behind it says what that is (`…` stands for anything). A block
below `<!-- not run: the reason -->` is left out. All are held to mypy and pyright, strict, too, except below
`<!-- not typed: the reason -->`.
"""

# ruff: noqa: S101 - tests assert

from __future__ import annotations

import ast
import asyncio
import fnmatch
import inspect
import logging
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import pytest

import conveyor.core
from conveyor.core import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parent.parent
#: What stands for a database on these pages.
DATABASE: Final = "postgresql://app@localhost/app"
PAGES: Final = sorted((ROOT / "docs").glob("*.md"))
README: Final = ROOT / "README.md"
ARCHITECTURE: Final = ROOT / "ARCHITECTURE.md"
DECISIONS: Final = sorted((ROOT / "docs" / "decisions").glob("*.md"))
#: Pages whose Python is meant to run. The others show parts of files that have tests of their own.
RUN: Final = [
    README,
    *sorted(ROOT.glob("packages/*/README.md")),
    ROOT / "shared-tests" / "README.md",
    *(page for page in PAGES if page.name != "writing-a-store.md"),
]

_BLOCK: Final = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_EXPECTED: Final = re.compile(r"^\s*print\(.*\)  # (?P<shown>.+)$", re.MULTILINE)
_LINK: Final = re.compile(
    r"(?:(?<!\!)\[[^\]]*\]\(|^\[\w+\]: )(?P<target>[^)\s]+)(?:\)|(?= \"))", re.MULTILINE
)
_HEADING: Final = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    note: str
    code: str

    @property
    def program(self) -> bool:
        return "asyncio.run(" in self.code

    @property
    def run(self) -> bool:
        return self.language == "python" and not self.note.startswith("not run:")

    @property
    def typed(self) -> bool:
        return self.run and not self.note.startswith("not typed:")


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        yield Block(page, line, found["language"], found["note"] or "", found["code"])


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def shown_by(block: Block) -> list[str]:
    return [found["shown"] for found in _EXPECTED.finditer(block.code)]


def check(output: str, expected: list[str]) -> None:
    """Each expected line is there, in this order."""
    lines = iter(output.splitlines())
    for wanted in expected:
        pattern = re.sub(r"([\[\]?*])", r"[\1]", wanted).replace("…", "*")
        assert any(fnmatch.fnmatchcase(line, pattern) for line in lines), (
            f"{wanted!r} was not shown:\n{output}"
        )


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """A PostgreSQL for the pages and programs that name one; for the others there is none."""
    given = request.node.callspec.params
    text = given["page"].read_text(encoding="utf-8") if "page" in given else given["block"].code
    found: str = request.getfixturevalue("empty_database") if DATABASE in text else DATABASE
    return found


async def session(page: Path, namespace: dict[str, Any], database: str) -> None:
    """Run the blocks of a page that are no programs, in order, in one event loop."""
    try:
        for block in blocks(page):
            if block.run and not block.program:
                # The line numbers of a traceback are those of the page.
                source = "\n" * (block.line - 1) + block.code.replace(DATABASE, database)
                code = compile(source, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
                step = eval(code, namespace)  # noqa: S307 - our own documentation
                if inspect.isawaitable(step):
                    await step
    finally:
        if "store" in namespace:
            await namespace["store"].close()


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Take back what a page does to loggers: what tests run after it is of other pages, or of none."""
    known = logging.Logger.manager.loggerDict
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in [*known] if "conveyor" in name)]
    before = [(one, one.level, one.propagate, one.handlers[:], one.filters[:]) for one in loggers]
    yield
    for one, level, propagate, handlers, filters in before:
        one.setLevel(level)
        one.propagate, one.handlers[:], one.filters[:] = propagate, handlers, filters


@pytest.mark.slow
@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_the_examples_of_a_page_run(
    page: Path,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    asyncio.run(asyncio.wait_for(session(page, {"__name__": "__main__"}, database), 60))

    expected = [line for block in blocks(page) if block.run and not block.program for line in shown_by(block)]
    check(capsys.readouterr().out, expected)


PROGRAMS: Final = [block for page in RUN for block in blocks(page) if block.run and block.program]


@pytest.mark.slow
@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: f"{name_of(block.page)}:{block.line}")
def test_a_program_of_a_page_runs(block: Block, database: str, tmp_path: Path) -> None:
    run(block, block.code.replace(DATABASE, database), tmp_path)


def run(block: Block, code: str, folder: Path) -> None:
    program = folder / "program.py"  # in a file, as it would be: processes of a worker import it
    program.write_text(code, encoding="utf-8")
    done = subprocess.run(  # noqa: S603 - our own documentation
        [sys.executable, "-W", "error", str(program)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    check(done.stdout, shown_by(block))


#: The session of a page is the body of a function, for its `await`s. So its names are local ones, and those
#: that nothing uses are not worth a word.
FRAME: Final = "async def page() -> None:"
STRICT: Final = (
    "# pyright: strict, reportUnusedVariable=false, reportUnusedFunction=false, reportUnusedClass=false"
)


def typed_programs(page: Path) -> Iterator[tuple[str, str]]:
    """A page's examples for type checkers, by name; the lines have the numbers that they have in the page."""
    name = re.sub(r"\W", "_", name_of(page).removesuffix(".md"))
    session: list[str] = []
    for block in blocks(page):
        if block.typed and block.program:
            yield f"{name}_{block.line}", "\n" * (block.line - 1) + block.code
        elif block.typed:
            session = session or ["", FRAME]
            session += [""] * (block.line - 1 - len(session))
            session += textwrap.indent(block.code, "    ").splitlines()
    if session:
        yield name, "\n".join([*session, ""])


@pytest.mark.slow
@pytest.mark.parametrize(
    "checker",
    [
        # What passes the strict mode passes the default one: it has the same checks, and more.
        pytest.param(["mypy", "--config-file=", "--strict", "--explicit-package-bases"], id="mypy"),
        pytest.param(["pyright", "--pythonpath", sys.executable], id="pyright"),
    ],
)
def test_every_example_passes_strict_type_checking(checker: list[str], tmp_path: Path) -> None:
    for page in RUN:
        for name, source in typed_programs(page):
            (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
            if checker[0] == "pyright":  # in both of its modes, which infer differently
                (tmp_path / f"{name}_strict.py").write_text(STRICT + source, encoding="utf-8")

    done = subprocess.run(  # noqa: S603 - a program of ours
        [sys.executable, "-m", *checker, "."], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "no issues found" in done.stdout or "0 errors, 0 warnings" in done.stdout


@pytest.mark.slow
def test_the_first_example_runs_on_postgresql_by_its_url_alone(tmp_path: Path, empty_database: str) -> None:
    first = next(block for block in blocks(README) if block.run)
    run(first, first.code.replace("sqlite:///jobs.db", empty_database), tmp_path)


def test_the_matrix_is_what_the_suite_makes_of_it() -> None:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(ROOT / "docs" / "matrix.py")], capture_output=True, text=True, check=True
    )

    assert f"<!-- matrix -->\n{done.stdout}<!-- end of matrix -->" in README.read_text(encoding="utf-8"), (
        "the suite has changed: run `python docs/matrix.py --write`"
    )


def test_every_page_has_an_example_that_is_run() -> None:
    without = [name_of(page) for page in RUN if not any(block.run for block in blocks(page))]

    assert without == []


def test_a_block_that_is_not_run_says_why() -> None:
    silent = [
        f"{name_of(b.page)}:{b.line}"
        for page in RUN
        for b in blocks(page)
        if b.note.strip() in {"not run:", "not typed:"}
    ]

    assert silent == []


def slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", sorted({*RUN, *PAGES, *DECISIONS, ARCHITECTURE}), ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    prose = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    for found in _LINK.finditer(prose):
        target, _, anchor = unquote(found["target"]).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists():
            broken.append(found["target"])
        elif anchor:
            headings = _HEADING.finditer(_BLOCK.sub("", file.read_text(encoding="utf-8")))
            if anchor not in {slug(heading["title"]) for heading in headings}:
                broken.append(found["target"])

    assert broken == []


def test_a_decision_has_its_day_its_reasons_and_what_would_change_it() -> None:
    index = (ROOT / "docs" / "decisions" / "index.md").read_text(encoding="utf-8")
    shape = re.compile(
        r"# (?P<title>.+)\n\nDecided (on|between) 20\d\d-.+\.\n\n(?s:.+)\n\n"
        r"## What would change it\n\n(?s:.+)\n"
    )

    for page in DECISIONS:
        if page.name == "index.md":
            continue
        found = shape.fullmatch(page.read_text(encoding="utf-8"))
        assert found is not None, page.name
        assert f"- [{found['title']}]({page.name})" in index


def test_what_the_architecture_names_is_there() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./-]+(?:\.py|/))`", text))
    roots = [*ROOT.glob("packages/*/src/conveyor"), ROOT / "shared-tests"]
    there = {f"{place.as_posix()}/" for root in roots for place in root.rglob("*")}

    assert named
    assert [
        name for name in named if not any(f"/{name}/".replace("//", "/") in place for place in there)
    ] == []


def test_the_readme_starts_with_exactly_two_commands() -> None:
    text = README.read_text(encoding="utf-8")
    start = text.index("\n## Start\n")
    end = text.index("\n## ", start + 1)
    lines = [text.count("\n", 0, at) + 1 for at in (start, end)]

    commands = [b for b in blocks(README) if b.language == "sh" and lines[0] < b.line < lines[1]]

    assert [b.code for b in commands] == ["pip install hatch && hatch run demo\n", "hatch test\n"]


def test_the_readme_makes_the_promise_and_no_other() -> None:
    text = README.read_text(encoding="utf-8").lower()

    assert "at-least-once execution, exactly-once accepted settlement" in text
    assert "exactly-once delivery" not in text


def test_the_errors_page_draws_the_tree_that_there_is() -> None:
    page = ROOT / "docs" / "errors.md"

    [tree] = [block.code for block in blocks(page) if "ConveyorError\n" in block.code and not block.run]

    assert tree.strip() in (errors.__doc__ or "")


def test_every_public_name_is_in_the_docs() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in [README, *PAGES])

    missing = [name for name in conveyor.core.__all__ if not re.search(rf"\b{name}\b", text)]

    assert missing == []


def test_the_table_of_names_names_what_there_is() -> None:
    """Each Python name of the page, `Class.name`, is one that exists."""
    text = (ROOT / "docs" / "typescript-names.md").read_text(encoding="utf-8")
    pairs = re.findall(r"`(Queue|Job|Worker)\.(\w+)", text)

    missing = [f"{owner}.{name}" for owner, name in pairs if not hasattr(getattr(conveyor.core, owner), name)]

    assert pairs
    assert missing == []
