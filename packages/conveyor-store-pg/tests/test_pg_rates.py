"""Rate limits of many groups: what a claim reads of the starts, and which groups later claims pass over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from conveyor.core.store import Claim, JobRecord, Limit, Rate
from conveyor.store.pg import PgStore
from conveyor.store.pg.statements import Statements

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SCOPE = {"queue": "q", "kind": "group", "targets": "{g5}"}


@pytest.fixture
def url(empty_database: str) -> str:
    return empty_database


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("count_starts", {"since": NOON - HOUR, "now": NOON, "max": 1}),
        ("add_starts", {"now": NOON, "starts": "{1}"}),
    ],
)
async def test_the_starts_of_a_group_are_found_among_its_own_even_without_statistics(
    url: str, statement: str, values: dict[str, object]
) -> None:
    """By the index that has them by instant, each group cost a look at the starts of all."""
    async with PgStore(url):
        pass
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("alter table conveyor_starts set (autovacuum_enabled = false)")
        connection.execute(
            "insert into conveyor_starts (queue, kind, target, at, starts, total) "
            "select 'q', 'group', 'g' || n, %s - n * interval '1 ms', 1, 1 from generate_series(1, 5000) n",
            [NOON],
        )
        explain = b"explain " + Statements("public")[statement]
        plan = "\n".join(line for (line,) in connection.execute(explain, SCOPE | values))

    assert "conveyor_starts_pkey" in plan
    assert "conveyor_starts_at" not in plan


async def test_a_group_that_uses_up_its_rate_is_passed_over_at_once(url: str) -> None:
    """Found out by a later claim, the groups of a whole window are found out by that one claim."""
    async with PgStore(url) as store:
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
        with psycopg.connect(url) as connection:
            found = connection.execute(
                "select grp, throttled_until from conveyor_groups order by grp"
            ).fetchall()

    # When the first of the two starts leaves the window.
    assert found == [(f"g{group}", NOON + HOUR) for group in "abc"]
