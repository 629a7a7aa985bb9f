"""Adds that come together: none is forgotten, whenever it comes."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from conveyor.core.errors import StoreUnavailableError
from conveyor.core.store import Inserted, JobKey, JobRecord, JobState
from conveyor.store.pg.insert_batcher import InsertBatcher


class RecordingBatcher(InsertBatcher):
    """Adds to nothing: each batch waits for the gate, and is written down."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.gate = asyncio.Event()
        self.batches: list[list[str]] = []
        self.error: Exception | None = None

    async def _insert(self, jobs: Sequence[JobRecord]) -> Sequence[Inserted]:
        self.batches.append([job.id for job in jobs])
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return [
            Inserted(key=JobKey("q", job.id), created=True, state=JobState.WAITING, created_at=at)
            for job in jobs
        ]


def add(batcher: InsertBatcher, id: str) -> Any:
    return batcher.insert([JobRecord(queue="q", id=id, name="work")])


async def test_what_comes_while_batches_are_on_their_way_goes_together() -> None:
    batcher = RecordingBatcher()
    adds = [asyncio.create_task(add(batcher, str(n))) for n in range(6)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    batcher.gate.set()

    answers = await asyncio.gather(*adds)

    assert [answer.key.id for [answer] in answers] == [str(n) for n in range(6)]
    assert len(batcher.batches) < 6


async def test_an_add_that_comes_just_as_all_batches_end_is_not_forgotten() -> None:
    batcher = RecordingBatcher()

    async def twice() -> None:
        await add(batcher, "first")
        await add(batcher, "second")

    adders = []
    for adder in (twice(), add(batcher, "other")):
        adders.append(asyncio.create_task(adder))
        for _ in range(3):
            await asyncio.sleep(0)
    assert batcher.batches == [["first"], ["other"]]
    batcher.gate.set()  # both batches end at the same moment, and nobody else adds

    async with asyncio.timeout(5):
        await asyncio.gather(*adders)
    assert batcher.batches[2:] == [["second"]]


async def test_who_gives_up_before_the_batch_is_on_its_way_is_in_none() -> None:
    batcher = RecordingBatcher()
    first = [asyncio.create_task(add(batcher, str(n))) for n in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    late = asyncio.create_task(add(batcher, "late"))
    await asyncio.sleep(0)
    late.cancel()
    batcher.gate.set()
    await asyncio.gather(*first)
    await asyncio.sleep(0)

    assert late.cancelled()
    assert "late" not in {id for batch in batcher.batches for id in batch}


async def test_a_store_that_is_away_is_told_to_everybody() -> None:
    batcher = RecordingBatcher()
    batcher.error = StoreUnavailableError("it is away")
    batcher.gate.set()

    answers = await asyncio.gather(*(add(batcher, str(n)) for n in range(5)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [StoreUnavailableError] * 5
    batcher.error = None
    [found] = await add(batcher, "again")
    assert found.created


async def test_one_that_cannot_be_added_does_not_keep_the_others_out() -> None:
    class Picky(RecordingBatcher):
        async def _insert(self, jobs: Sequence[JobRecord]) -> Sequence[Inserted]:
            if any(job.id == "bad" for job in jobs):
                raise ValueError("bad")
            return await super()._insert(jobs)

    batcher = Picky()
    blocking = [asyncio.create_task(add(batcher, f"first{n}")) for n in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    adds = [asyncio.create_task(add(batcher, id)) for id in ("a", "bad", "b")]
    await asyncio.sleep(0)
    batcher.gate.set()
    await asyncio.gather(*blocking)

    with pytest.raises(ValueError, match="bad"):
        await adds[1]
    assert [found.created for found in await adds[0] + await adds[2]] == [True, True]
