"""A claim passes over a job that another call is at, and says that it may be free in a moment."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from conveyor.core.store import Claim, JobRecord, Limit
from conveyor.store.pg import PgStore

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_snapshots")]


@pytest.fixture
def url(empty_database: str) -> str:
    return empty_database


@pytest.mark.parametrize(
    ("group", "how"),
    [
        (None, {}),
        (None, {"names": frozenset({"work"})}),
        (None, {"limit": Limit(active=5)}),
        ("tenant", {}),
        ("tenant", {"group_limit": Limit(active=5)}),
    ],
    ids=["plain", "by name", "limited", "in groups", "limited in groups"],
)
async def test_a_claim_that_passed_over_a_job_looks_again_in_a_moment(
    url: str, group: str | None, how: dict[str, Any]
) -> None:
    async with PgStore(url, notify=False) as store, await psycopg.AsyncConnection.connect(url) as other:
        await store.insert([JobRecord(queue="q", id=id, name="work", group=group) for id in "ab"])
        await other.execute("select from conveyor_jobs where id = 'a' for update")

        first = await store.claim(request(how))
        await other.rollback()
        second = await store.claim(request(how))
        third = await store.claim(request(how))

    assert [job.id for job in first.jobs] == ["b"]
    assert first.wait is not None
    assert first.wait <= timedelta(milliseconds=20)
    assert [job.id for job in second.jobs] == ["a"]
    assert (list(third.jobs), third.wait) == ([], None)


def request(how: dict[str, Any]) -> Claim:
    return Claim(queue="q", count=3, token=uuid4().hex, lease=timedelta(seconds=30), worker="w", **how)
