"""Rate limits of many groups: which of them later claims pass over."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from conveyor.core.store import Claim, JobRecord, Limit, Rate
from conveyor.store.sqlite import SqliteStore

HOUR = timedelta(hours=1)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def test_a_group_that_uses_up_its_rate_is_passed_over_at_once(tmp_path: Path) -> None:
    """Found out by a later claim, the groups of a whole window are found out by that one claim."""
    path = tmp_path / "jobs.db"
    async with SqliteStore(path) as store:
        await store.insert(
            [JobRecord(queue="q", id=f"{n}-{g}", name="work", group=f"g{g}") for n in range(4) for g in "abc"]
        )
        for second in (0, 10):
            request = Claim(
                queue="q",
                count=3,
                token=str(second),
                lease=HOUR,
                worker="w",
                group_limit=Limit(rate=Rate(max=2, per=HOUR)),
            )
            await store.claim(request, now=NOON + timedelta(seconds=second))
        connection = sqlite3.connect(path)
        found = connection.execute("select grp, throttled_until from conveyor_groups order by grp").fetchall()
        connection.close()

    # When the first of the two starts leaves the window.
    assert [(group, datetime.fromisoformat(until)) for group, until in found] == [
        (f"g{group}", NOON + HOUR) for group in "abc"
    ]
