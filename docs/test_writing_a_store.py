"""What `writing-a-store.md` quotes stands in the two example stores as it is quoted."""

# ruff: noqa: PLR2004, S101 - tests assert

import re
from pathlib import Path
from textwrap import indent

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "writing-a-store.md"
STORES = [ROOT / "examples" / f"conveyor-store-{name}" for name in ("jsonfile", "plainsql")]
SOURCES = [
    path
    for store in STORES
    for path in [*store.glob("src/*/*.py"), *store.glob("tests/*.py"), store / "pyproject.toml"]
]
BLOCKS = re.findall(r"^```(?:python|toml|sql)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_quotes_the_stores() -> None:
    assert len(BLOCKS) > 20


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[0])
def test_what_the_page_quotes_is_there(block: str) -> None:
    texts = [path.read_text() for path in SOURCES]

    # quoted without the indentation of what it stands in
    assert any(indent(block.rstrip(), " " * depth) in text for text in texts for depth in (0, 4, 8, 12, 16))
