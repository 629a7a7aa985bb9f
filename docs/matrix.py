"""Prints the README's table of what is proved on which store, as the conformance suite has it.

python docs/matrix.py
"""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path
from typing import Any, Final

from conveyor.conformance import StoreContract
from conveyor.core import open_store

ROOT: Final = Path(__file__).resolve().parent.parent
STORES: Final = {
    "memory": "memory:",
    "SQLite": "sqlite:///jobs.db",
    "PostgreSQL": "postgresql://app@localhost/app",
}


def areas() -> dict[str, list[tuple[str, Any]]]:
    """The tests of each area, each with its file."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for owner in StoreContract.__mro__:
        for test in vars(owner).values():
            name = getattr(test, "conveyor_area", None)
            if name is not None:
                file = Path(inspect.getfile(owner)).resolve().relative_to(ROOT).as_posix()
                found.setdefault(name, []).append((file, test))
    return dict(sorted(found.items()))


def cell(store: str, tests: list[tuple[str, Any]]) -> str:
    """Where most of it is proved for a store; "no" if the store does without all of it."""
    features = open_store(STORES[store]).features
    files = Counter(file for file, test in tests if test.conveyor_needs <= features)
    return f"[yes]({files.most_common(1)[0][0]})" if files else "no"


def matrix() -> str:
    """The table, as Markdown."""
    rows = [f"| | {' | '.join(STORES)} |", f"|---|{'---|' * len(STORES)}"]
    rows += [
        f"| {name} | {' | '.join(cell(store, tests) for store in STORES)} |"
        for name, tests in areas().items()
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(matrix(), end="")
