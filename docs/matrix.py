"""Makes the README's table of what is proved on which store from the conformance suite's own.

python docs/matrix.py             prints it
python docs/matrix.py --write     writes it to README.md
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Final

from conveyor.conformance.kit.proofs import PROOFS, Test, proved
from conveyor.core import open_store

ROOT: Final = Path(__file__).resolve().parent.parent
README: Final = ROOT / "README.md"
STORES: Final = {
    "memory": "memory:",
    "SQLite": "sqlite:///jobs.db",
    "PostgreSQL": "postgresql://app@localhost/app",
}
_PLACE: Final = re.compile(r"(?<=<!-- matrix -->\n).*?(?=<!-- end of matrix -->)", re.DOTALL)


def where(test: Test) -> str:
    """The file of a test, and its name as a title. A line would be another after each edit of that file."""
    file = Path(inspect.getfile(inspect.unwrap(test))).resolve().relative_to(ROOT)
    return f'{file.as_posix()} "{test.__name__}"'


def matrix() -> str:
    """The table, as Markdown."""
    offered = {store: open_store(url).features for store, url in STORES.items()}
    rows = [f"| | {' | '.join(STORES)} |", f"|---|{'---|' * len(STORES)}"]
    links = []
    for n, (feature, test) in enumerate(PROOFS.items(), start=1):
        cells = [f"[yes][{n}]" if proved(test, offered[store]) else "no" for store in STORES]
        rows.append(f"| {feature} | {' | '.join(cells)} |")
        links.append(f"[{n}]: {where(test)}")
    return "\n".join(["", *rows, "", *links, ""])


def written(readme: str) -> str:
    """The README with the table as it is now."""
    return _PLACE.sub(lambda _: matrix(), readme)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(matrix(), end="")
