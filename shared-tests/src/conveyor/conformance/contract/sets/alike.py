"""Sets: found, counted, changed and removed alike."""

from __future__ import annotations

from typing import Final

import pytest

from conveyor.conformance.contract.sets.jobs import delete_all, family, found
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    LEASE,
    MANY,
    START,
    WRONG,
    add,
    at,
    completed,
    everything,
    ids,
    job,
    jobs,
    settle,
    span,
    take_by_id,
)
from conveyor.core.store import (
    Beat,
    Change,
    Feature,
    JobKey,
    JobState,
    Retention,
    Store,
    Where,
)

#: Sets of some of the jobs of `family`.
SOME: Final = {
    "ids": Where(queue="q", ids=frozenset({"a", "d", "missing"})),
    "states": Where(queue="q", states=frozenset({JobState.DELAYED, JobState.FAILED})),
    "names": Where(queue="q", names=frozenset({"y"})),
    "report": Where(report=WRONG),
    "age": Where(queue="q", older_than=span(30)),
    "no queue": Where(names=frozenset({"x"})),
    "nothing": Where(queue="q", names=frozenset()),
}
SOME_OF: Final = {
    Feature.GROUPS: Where(queue="q", group="g"),
    Feature.FLOWS: Where(parent=JobKey("q", "parent")),
    Feature.UNIQUE_KEYS: Where(queue="q", unique_key="k"),
}


@area("sets")
class Alike:
    """A set is the same to every call that takes one."""

    @pytest.mark.parametrize("which", [*SOME, *SOME_OF])
    async def test_a_set_is_counted_changed_and_removed_as_it_is_found(
        self, store: Store, which: str | Feature
    ) -> None:
        where = SOME_OF[which] if isinstance(which, Feature) else SOME[which]
        await family(store)
        wanted = await store.find(where, limit=MANY, now=at(60))
        rest = {record.key for record in await store.find(Where(), limit=MANY, now=at(60))} - {
            record.key for record in wanted
        }

        counts = await store.count(where, now=at(60))
        both = Change(payload="7", retention=Retention(count=7))  # one or the other applies to any job
        changed = await store.update(where, both, now=at(60))

        assert sum(counts.values()) == len(wanted)
        assert changed == {record.key for record in wanted}
        everybody = await store.find(Where(), limit=MANY, now=at(60))
        assert {r.key for r in everybody if r.payload == "7" or r.keep_count == 7} == changed
        deleted = await store.delete(where, limit=MANY, now=at(60))
        assert list(deleted.removed) == [record.key for record in wanted]
        assert {record.key for record in await store.find(Where(), limit=MANY, now=at(60))} == rest

    async def test_a_large_set_is_taken_whole(self, store: Store) -> None:
        """Stores bind parameters, and read pages: neither is the end of a set."""
        names = [f"{n:04}" for n in range(1_234)]
        await add(store, *jobs(names), job("more"))
        large = Where(queue="q", ids=frozenset(names))

        assert await found(store, large) == names
        assert await store.count(large, now=START) == {("q", JobState.WAITING): 1_234}
        assert len(await store.update(large, Change(payload="7"), now=START)) == 1_234
        held = await take_by_id(store, names)
        assert ids(held) == names
        assert {one.payload for one in held} == {"7"}
        renewed = await store.renew([Beat(lease=one.lease, report="1") for one in held], LEASE, now=at(1))
        assert (len(renewed.held), renewed.lost) == (1_234, frozenset())
        assert {one.report for one in await store.find(large, limit=MANY, now=at(1))} == {"1"}
        await settle(store, *(completed(one) for one in held), now=at(2))
        assert ids(await delete_all(store, large, limit=2_000, at_second=3)) == names
        assert ids(await everything(store)) == ["more"]
