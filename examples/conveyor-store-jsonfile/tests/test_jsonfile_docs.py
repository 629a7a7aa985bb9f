"""The page that walks through this store quotes it as it is."""

import re
from pathlib import Path
from textwrap import indent

import pytest

HERE = Path(__file__).parents[1]
PAGE = HERE.parents[1] / "docs" / "writing-a-store.md"
SOURCES = [*HERE.glob("src/*/*.py"), *HERE.glob("tests/*.py"), HERE / "pyproject.toml"]
BLOCKS = re.findall(r"^```(?:python|toml)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_quotes_the_store() -> None:
    assert len(BLOCKS) > 5


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[0])
def test_what_the_page_quotes_is_there(block: str) -> None:
    texts = [path.read_text() for path in SOURCES]

    # quoted without the indentation of what it stands in
    assert any(indent(block.rstrip(), " " * depth) in text for text in texts for depth in (0, 4, 8, 12))
