"""The SQL of this store: one statement per file in `sql/`, and the few ways to run one.

Whenever `sqlite3` calls SQLite, another thread may take the interpreter, and while the event loop is busy
it takes up to 5 ms to get it back. So what a step reads comes back as one JSON value, what it writes goes
in by few large statements (measured beside a busy loop: 347 rows/s by `executemany`, 16,000 so), and
parameters, which are named in the files, are passed by position: `sqlite3` asks SQLite for each name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import resources
from sqlite3 import Connection, Cursor
from textwrap import indent
from typing import Any, Final

#: The statements by their names; the folders are for readers.
_FILES: Final = {
    file.name.removesuffix(".sql"): file
    for folder in (resources.files("conveyor.store.sqlite") / "sql").iterdir()
    for file in folder.iterdir()
}
_INCLUDED: Final = re.compile(r"^( *)\{include (\w+)\}", re.MULTILINE)
_ROW: Final = re.compile(r"\(\?(?:, \?)*\)")
_NAME: Final = re.compile(r":(\w+)")
_COMMENT: Final = re.compile(r"^--.*\n", re.MULTILINE)
#: The most rows of one statement; 30 columns of them stay below SQLite's 32,766 parameters.
_MOST: Final = 512


@cache
def statement(name: str) -> str:
    """The statement in that file, with what it includes."""
    text = _FILES[name].read_text(encoding="utf-8")
    return _INCLUDED.sub(lambda mark: indent(_COMMENT.sub("", statement(mark[2])).strip(), mark[1]), text)


@cache
def of_rows(name: str, count: int) -> str:
    """The statement in that file, with its row of values that many times."""
    return _ROW.sub(lambda row: ",\n".join([row[0]] * count), statement(name), count=1)


def text(values: Any) -> str:
    """JSON text to pass lists by."""
    return json.dumps(values, separators=(",", ":"))


def execute(db: Connection, sql: str, parameters: Mapping[str, Any]) -> Cursor:
    """Run a statement with named parameters; there may be more of these than it takes."""
    positional, names = _positional(sql)
    return db.execute(positional, [parameters[name] for name in names])


@cache
def _positional(sql: str) -> tuple[str, tuple[str, ...]]:
    """The statement with a question mark for each parameter, and their names in that order."""
    bare = _COMMENT.sub("", sql)
    return _NAME.sub("?", bare), tuple(_NAME.findall(bare))


def fetch(db: Connection, name: str, /, **parameters: Any) -> Any:
    """The first row that a statement answers with; None: there is none."""
    return execute(db, statement(name), parameters).fetchone()


def ask(db: Connection, name: str, /, **parameters: Any) -> Any:
    """The JSON value that a statement answers with."""
    return json.loads(fetch(db, name, **parameters)[0])


def run(db: Connection, name: str, /, **parameters: Any) -> int:
    """Run a statement, and return how many rows it changed."""
    return execute(db, statement(name), parameters).rowcount


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
