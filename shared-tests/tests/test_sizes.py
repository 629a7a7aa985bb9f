"""How large modules and functions may become: what grows past this has more than one idea."""

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(file for source in ROOT.glob("packages/*/src") for file in source.rglob("*.py"))
SUITE = sorted((ROOT / "shared-tests" / "src").rglob("*.py"))

LONGEST_MODULE = 400
MEDIAN_MODULE = 130
LONGEST_FUNCTION = 60


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From its name to its end, without what its docstring promises."""
    whole = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return whole - ((first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0)


@pytest.mark.parametrize("files", [PACKAGES, SUITE], ids=["packages", "suite"])
def test_no_module_is_too_long(files: list[Path]) -> None:
    assert files
    assert {str(file.relative_to(ROOT)): n for file in files if (n := lines(file)) > LONGEST_MODULE} == {}


def test_most_modules_are_short() -> None:
    assert statistics.median(lines(file) for file in PACKAGES if file.name != "__init__.py") < MEDIAN_MODULE


def test_no_function_is_too_long() -> None:
    found = {
        f"{file.relative_to(ROOT)}::{node.name}": n
        for file in PACKAGES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (n := lines_of(node)) > LONGEST_FUNCTION
    }

    assert found == {}
