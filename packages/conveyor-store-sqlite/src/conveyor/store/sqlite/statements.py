"""The SQL of this store: one statement per file in `sql/`, and the three ways to run one.

What a step reads comes back as one JSON value, and what it writes goes in by few large statements:
each row that `sqlite3` steps through lets another thread take the interpreter, and while the event
loop is busy every such moment costs up to 5 ms (measured: 347 rows/s by `executemany` beside a busy
loop, against 16,000 by statements of many rows).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from functools import cache
from importlib import resources
from sqlite3 import Connection
from typing import Any, Final

_FILES: Final = resources.files("conveyor.store.sqlite") / "sql"
_ROW: Final = re.compile(r"\(\?(?:, \?)*\)")
#: The most rows of one statement; 30 columns of them stay below SQLite's 32,766 parameters.
_MOST: Final = 512


@cache
def statement(name: str) -> str:
    """The statement in that file."""
    return (_FILES / f"{name}.sql").read_text(encoding="utf-8")


@cache
def of_rows(name: str, count: int) -> str:
    """The statement in that file, with its row of values that many times."""
    return _ROW.sub(lambda row: ",\n".join([row[0]] * count), statement(name), count=1)


def text(values: Any) -> str:
    """JSON text to pass lists by."""
    return json.dumps(values, separators=(",", ":"))


def ask(db: Connection, name: str, /, **parameters: Any) -> Any:
    """The JSON value that a statement answers with."""
    return json.loads(db.execute(statement(name), parameters).fetchone()[0])


def run(db: Connection, name: str, /, **parameters: Any) -> int:
    """Run a statement, and return how many rows it changed."""
    return db.execute(statement(name), parameters).rowcount


def write(db: Connection, name: str, rows: Collection[Sequence[Any]]) -> int:
    """Run a statement that takes rows of values, and return how many rows it changed.

    The statements are of a power of two of rows each, so that few different ones are compiled.
    """
    changed = 0
    values = [value for row in rows for value in row]
    width = len(values) // len(rows) if rows else 0
    start, left, size = 0, len(rows), _MOST
    while left:
        while size > left:
            size //= 2
        end = start + size * width
        changed += db.execute(of_rows(name, size), values[start:end]).rowcount
        start, left = end, left - size
    return changed
