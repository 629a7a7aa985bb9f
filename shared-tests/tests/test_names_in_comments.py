"""What a comment names is there: files of Python and SQL, and tests."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("packages", "shared-tests", "examples", "benchmarks", "docs", ".ci")
FILES = sorted(
    file
    for folder in FOLDERS
    for kind in ("*.py", "*.sql")
    for file in (ROOT / folder).rglob(kind)
    if not {"__pycache__", ".venv", "node_modules"} & set(file.parts)
)
PATHS = [f"/{file.relative_to(ROOT).as_posix()}" for file in FILES]
TESTS = {
    name
    for file in FILES
    if file.suffix == ".py"
    for name in (file.stem, *re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8")))
}

_FILE = re.compile(r"[\w./-]*\w\.(?:py|sql)\b")
_TEST = re.compile(r"\btest_\w+\b(?!\.py|\*|…)")
#: What a user's program, another project, or a test of a test calls its own; and a package, not a file.
_NOT_OURS = {"setup.py", "conftest.py", "__init__.py", "__main__.py", "conveyor.store.sql"}


def comments(file: Path) -> Iterator[tuple[int, str]]:
    """The comments and docstrings of a file, each with its line."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".sql":
        for number, line in enumerate(text.splitlines(), start=1):
            if "--" in line:
                yield number, line.partition("--")[2]
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield getattr(node, "lineno", 1), ast.get_docstring(node) or ""


def strangers(comment: str) -> list[str]:
    """The files and tests that a comment names and that are not there."""
    files = [name for name in _FILE.findall(comment) if name.rpartition("/")[2] not in _NOT_OURS]
    return [
        *(name for name in files if not any(path.endswith(f"/{name.lstrip('./')}") for path in PATHS)),
        *(name for name in _TEST.findall(comment) if name not in TESTS),
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_a_comment_names_is_there(folder: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in FILES
        if (ROOT / folder) in file.parents
        for line, comment in comments(file)
        for name in strangers(comment)
    ]

    assert found == []


@pytest.mark.parametrize(
    ("comment", "wrong"),
    [
        ("# Pinned by not_here.py::test_nobody_wins.", ["not_here.py", "test_nobody_wins"]),
        ("-- For no_such_statement.sql.", ["no_such_statement.sql"]),
        ("# See test_names_in_comments.py, and tests/test_proofs.py.", []),
        ("# Pinned by test_what_a_comment_names_is_there.", []),
    ],
)
def test_a_name_of_nothing_is_found(comment: str, wrong: list[str]) -> None:
    assert strangers(comment) == wrong
