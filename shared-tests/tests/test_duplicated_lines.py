"""How much the two SQL stores have twice: what both would write belongs in `conveyor.store.sql`.

What counts is the share of SQLite's lines of code that stand in PostgreSQL's package as well, wherever and
however often. A line is compared without its indentation, and without `await` and `async`, which SQLite does
not need. Not counted, neither as a line nor as a duplicate, is what says nothing: imports, docstrings,
comments, and lines of brackets. Not counted as a duplicate is what was not the stores' choice: a line that
stands in core's room for stores, or in the store in memory, which shares nothing but the contract with them;
and the signatures of the protocols that `conveyor.store.sql` asks its stores for.

SQL in files of its own is not looked at: each database is asked in its own words.
"""

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from textwrap import dedent

PACKAGES = Path(__file__).parents[2] / "packages"
SQLITE = PACKAGES / "conveyor-store-sqlite" / "src"
POSTGRESQL = PACKAGES / "conveyor-store-pg" / "src"
SHARED = PACKAGES / "conveyor-store-sql" / "src"
CONTRACT = (
    PACKAGES / "conveyor-core" / "src" / "conveyor" / "core" / "store",
    PACKAGES / "conveyor-store-memory" / "src",
)

#: 28 % before there was a shared package.
MOST = 0.15

_BRACKETS = re.compile(r"[\w\s,.()\[\]{}:=\"']{0,3}|[)\]}(\[{,:]+")
_Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module


def compared(line: str) -> str:
    return " ".join(line.split()).replace("await ", "").replace("async def", "def")


def passed_over(node: ast.AST) -> ast.stmt | None:
    """An import, or the docstring of a definition."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return node
    if isinstance(node, _Documented) and ast.get_docstring(node, clean=False) is not None:
        return node.body[0]
    return None


def lines_of(source: str) -> list[str]:
    """The lines of code of a module, as they are compared."""
    found = [passed_over(node) for node in ast.walk(ast.parse(source))]
    skipped = {
        line for node in found if node for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    numbered = ((n, compared(line)) for n, line in enumerate(source.splitlines(), 1))
    return [
        line
        for n, line in numbered
        if n not in skipped and not line.startswith("#") and not _BRACKETS.fullmatch(line)
    ]


def signatures_of(source: str) -> Iterator[str]:
    """The lines of the signatures of a module's protocols, as they are compared."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases):
            for method in node.body:
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from map(compared, lines[method.lineno - 1 : method.body[0].lineno - 1])


def sources(*folders: Path) -> list[str]:
    found = [file.read_text(encoding="utf-8") for folder in folders for file in sorted(folder.rglob("*.py"))]
    assert found
    return found


def duplicated(ours: str, theirs: Collection[str], dictated: Collection[str]) -> list[str]:
    """The lines of a module of ours that are theirs as well."""
    return [line for line in lines_of(ours) if line in theirs and line not in dictated]


def test_little_of_the_sql_stores_stands_in_both() -> None:
    theirs = {line for source in sources(POSTGRESQL) for line in lines_of(source)}
    dictated = {line for source in sources(*CONTRACT) for line in lines_of(source)}
    dictated.update(line for source in sources(SHARED) for line in signatures_of(source))
    found = {
        str(file.relative_to(SQLITE)): (len(duplicated(source, theirs, dictated)), len(lines_of(source)))
        for file in sorted(SQLITE.rglob("*.py"))
        for source in [file.read_text(encoding="utf-8")]
    }

    twice, lines = (sum(numbers) for numbers in zip(*found.values(), strict=True))
    most = sorted(found.items(), key=lambda item: -item[1][0])[:8]
    assert twice / lines < MOST, f"{twice} of {lines} lines are {twice / lines:.1%}; most of them in {most}"


OURS = dedent('''
    """How far it is."""

    from pathlib import Path

    def far(db, limit):
        """Measure it."""
        # As the crow flies.
        left = ask(db, "left", limit=limit)
        return min(
            limit - left,
            limit,
        )
''')
THEIRS = dedent('''
    from pathlib import Path

    async def far(session, limit):
        """Measure it."""
        left = await session.ask("left", limit=limit)
        return min(
            limit - left,
            limit,
        )
''')


def test_what_stands_in_both_is_counted() -> None:
    theirs = lines_of(THEIRS)

    assert len(lines_of(OURS)) == 5
    assert duplicated(OURS, theirs, []) == ["return min(", "limit - left,", "limit,"]
    assert duplicated(OURS, theirs, ["limit,"]) == ["return min(", "limit - left,"]
    assert duplicated(OURS.replace("ask(db, ", "session.ask("), theirs, [])[0].startswith("left = ")


def test_the_signatures_of_protocols_are_known() -> None:
    table = dedent('''
        class Table(Protocol):
            """Rows."""

            async def read(
                self, keys: Keys
            ) -> Rows:
                """Read them."""
                ...

        class Other:
            def read(self) -> None: ...
    ''')

    assert list(signatures_of(table)) == ["def read(", "self, keys: Keys", ") -> Rows:"]
