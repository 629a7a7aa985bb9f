"""Bugs about how long a key is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from broken.store import Broken, Now, caught_by
from conveyor.core.store import (
    Change,
    Inserted,
    JobRecord,
    Outcome,
    Settled,
    Where,
)


@caught_by("unique keys", "test_a_key_with_a_time_is_held_exactly_until_it_is_over")
class LapsesEarly(Broken):
    """The time of a key is over a microsecond early."""

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        short = timedelta(microseconds=1)
        early = [
            one if one.unique_for is None else replace(one, unique_for=one.unique_for - short) for one in jobs
        ]
        return await super().insert(early, new_only=new_only, now=now)


@caught_by("unique keys", "test_a_key_with_a_time_is_held_though_its_job_has_ended")
@caught_by("model", "test_random_histories_give_the_same_answers_as_the_memory_store")
class LapsesWithTheJob(Broken):
    """A key is given up when its job ends, whatever time it has left."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        settled = await super().settle(outcomes, now=now)
        for outcome in outcomes:
            if outcome.state.terminal and outcome.lease in settled.applied:
                where = Where(queue=outcome.lease.queue, ids=frozenset({outcome.lease.id}))
                await self.update(where, Change(release_key=True), now=now)
        return settled
