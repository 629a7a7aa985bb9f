"""What a claim looks at does not grow with what it passes over, nor with what lies behind."""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from conveyor.core.store import Claim, JobRecord, JobState, Limit, Outcome, Pause, Rate, Where
from conveyor.store.memory import MemoryStore

#: Many times what any of these claims may look at.
MANY = 10_000
GROUPS = 2_000
START = datetime(2030, 1, 1, tzinfo=UTC)
ONE_ACTIVE = Limit(active=1)
ONE_A_MINUTE = Limit(rate=Rate(max=1, per=timedelta(minutes=1)))

pytestmark = pytest.mark.slow
tokens = count()


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


def job(n: int, *, name: str = "work", group: str | None = None, delay: timedelta | None = None) -> JobRecord:
    return JobRecord(queue="q", id=str(n), name=name, group=group, delay=delay)


async def add(store: MemoryStore, jobs: Iterable[JobRecord]) -> None:
    await store.insert(list(jobs), now=START)


async def claim(
    store: MemoryStore,
    *,
    number: int = 1,
    limit: Limit | None = None,
    group_limit: Limit | None = None,
    names: frozenset[str] | None = None,
) -> list[JobRecord]:
    request = Claim(
        queue="q",
        count=number,
        token=f"token-{next(tokens)}",
        lease=timedelta(minutes=5),
        worker="w",
        limit=limit,
        group_limit=group_limit,
        names=names,
    )
    return list((await store.claim(request, now=START)).jobs)


async def cost_of_ten_claims(store: MemoryStore, **claims: Limit | frozenset[str] | None) -> int:
    before = store.claim_steps("q")
    for _ in range(10):
        assert len(await claim(store, **claims)) == 1  # type: ignore[arg-type]
    return store.claim_steps("q") - before


async def test_behind_a_backlog(store: MemoryStore) -> None:
    await add(store, (job(n) for n in range(MANY)))

    assert await cost_of_ten_claims(store) <= 30


async def test_behind_finished_jobs(store: MemoryStore) -> None:
    await add(store, (job(n) for n in range(MANY)))
    held = await claim(store, number=MANY)
    await store.settle([Outcome.completed(finished, "{}") for finished in held], now=START)
    assert await store.count(Where(queue="q"), now=START) == {("q", JobState.COMPLETED): MANY}

    await add(store, (job(MANY + n) for n in range(10)))

    assert await cost_of_ten_claims(store) <= 40


async def test_behind_jobs_of_a_paused_name(store: MemoryStore) -> None:
    await add(store, (job(n, name="paused") for n in range(MANY)))
    await add(store, (job(MANY + n) for n in range(10)))
    await store.pause("q", Pause(name="paused"), now=START)

    assert await cost_of_ten_claims(store) <= 40


async def test_behind_jobs_of_names_that_are_not_asked_for(store: MemoryStore) -> None:
    await add(store, (job(n, name=f"other-{n % 100}") for n in range(MANY)))
    await add(store, (job(MANY + n) for n in range(10)))
    await claim(store, names=frozenset({"none"}))

    assert await cost_of_ten_claims(store, names=frozenset({"work"})) <= 200


async def test_behind_delayed_jobs(store: MemoryStore) -> None:
    await add(store, (job(n, delay=timedelta(seconds=1 + n)) for n in range(MANY)))
    await add(store, (job(MANY + n) for n in range(10)))

    assert await cost_of_ten_claims(store) <= 40


@pytest.mark.parametrize("group_limit", [ONE_ACTIVE, ONE_A_MINUTE], ids=["active", "rate"])
async def test_behind_many_jobs_of_a_few_groups_at_their_limit(
    store: MemoryStore, group_limit: Limit
) -> None:
    await add(store, (job(n, group=f"full-{n % 10}") for n in range(MANY)))
    assert len(await claim(store, number=MANY, group_limit=group_limit)) == 10
    await add(store, (job(MANY + n, group=f"free-{n}") for n in range(10)))

    assert await cost_of_ten_claims(store, group_limit=group_limit) <= 60


@pytest.mark.parametrize("group_limit", [ONE_ACTIVE, ONE_A_MINUTE], ids=["active", "rate"])
async def test_behind_many_groups_at_their_limit(store: MemoryStore, group_limit: Limit) -> None:
    await add(store, (job(n, group=f"full-{n % GROUPS}") for n in range(2 * GROUPS)))
    assert len(await claim(store, number=MANY, group_limit=group_limit)) == GROUPS
    await add(store, (job(MANY + n, group=f"free-{n}") for n in range(10)))

    assert await cost_of_ten_claims(store, group_limit=group_limit) <= 60


async def test_behind_many_paused_groups(store: MemoryStore) -> None:
    await add(store, (job(n, group=f"paused-{n}") for n in range(GROUPS)))
    for n in range(GROUPS):
        await store.pause("q", Pause(group=f"paused-{n}"), timedelta(hours=1), now=START)
    assert await claim(store) == []
    await add(store, (job(MANY + n) for n in range(10)))

    assert await cost_of_ten_claims(store) <= 60


async def test_of_a_queue_that_has_reached_its_limit(store: MemoryStore) -> None:
    await add(store, (job(n) for n in range(MANY)))
    assert len(await claim(store, limit=ONE_ACTIVE)) == 1
    before = store.claim_steps("q")

    assert await claim(store, limit=ONE_ACTIVE) == []

    assert store.claim_steps("q") - before <= 2


async def test_what_changed_is_looked_at_once(store: MemoryStore) -> None:
    await add(store, (job(n, group=f"group-{n}") for n in range(GROUPS)))
    await claim(store)
    before = store.claim_steps("q")

    for _ in range(GROUPS - 1):
        await claim(store)

    assert store.claim_steps("q") - before <= 3 * GROUPS
