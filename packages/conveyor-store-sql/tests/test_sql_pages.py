"""Pages of records, where some rows cannot be read."""

from collections.abc import Sequence
from logging import getLogger

import pytest

from conveyor.core.store import JobRecord
from conveyor.store.sql import Read, read_page


@pytest.mark.parametrize(
    ("rows", "limit", "page", "reads"),
    [
        ("abc", 2, "ab", 1),
        ("a", 2, "a", 1),
        ("!ab!c", 2, "ab", 2),
        ("!!!!ab", 1, "a", 3),
        ("!!a", 2, "a", 2),
        ("!!!", 2, "", 2),
    ],
)
async def test_a_page_is_full_unless_there_are_no_more(rows: str, limit: int, page: str, reads: int) -> None:
    counts: list[int] = []

    async def read(count: int) -> Sequence[Read]:
        counts.append(count)
        return [
            (("q", id), ValueError(id) if id == "!" else JobRecord(queue="q", id=id, name="n"))
            for id in rows[:count]
        ]

    found = await read_page(read, limit, getLogger("test"))

    assert "".join(record.id for record in found) == page
    assert len(counts) == reads
