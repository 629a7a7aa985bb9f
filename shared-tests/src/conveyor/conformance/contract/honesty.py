"""Honesty: a feature that is declared is there, and one that is not is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    add,
    at,
    child,
    claim,
    claim_jobs,
    completed,
    everything,
    job,
    span,
    states,
    take_one,
)
from conveyor.core.errors import UnsupportedFeatureError
from conveyor.core.store import Feature, JobState, Limit, Outcome, Pause, Rate, Store


def insert(**fields: Any) -> Callable[[Store], Awaitable[Any]]:
    """A call that inserts such a job."""
    return lambda store: store.insert([job("plain"), job("b", **fields)], now=at(0))


def claiming(**limits: Any) -> Callable[[Store], Awaitable[Any]]:
    """A call that claims under such limits."""
    return lambda store: store.claim(claim(**limits), now=at(0))


async def spawning(store: Store, **fields: Any) -> None:
    """A call that settles a job and spawns such another."""
    held = await take_one(store, "there")
    await store.settle([completed(held, spawn=(job("b", **fields),))], now=at(0))


ACTIVE = Limit(active=1)
RATE = Limit(rate=Rate(max=1, per=span(1)))

#: The calls that use a feature, and no other.
USES: dict[str, tuple[Feature, Callable[[Store], Awaitable[Any]]]] = {
    "a unique key": (Feature.UNIQUE_KEYS, insert(unique_key="k")),
    "a unique key for a time": (Feature.UNIQUE_KEYS, insert(unique_key="k", unique_for=span(60))),
    "a spawned unique key": (Feature.UNIQUE_KEYS, lambda store: spawning(store, unique_key="k")),
    "a parent": (Feature.FLOWS, lambda store: store.insert([child("kid"), job("parent")], now=at(0))),
    "a spawned child": (Feature.FLOWS, lambda store: spawning(store, parent=job("there").key)),
    "a group": (Feature.GROUPS, insert(group="g")),
    "a size of a group": (Feature.GROUPS, insert(group="g", group_max_size=5)),
    "a spawned group": (Feature.GROUPS, lambda store: spawning(store, group="g")),
    "pausing a group": (Feature.GROUPS, lambda store: store.pause("q", Pause(group="g"), now=at(0))),
    "a limit of active jobs": (Feature.ACTIVE_LIMITS, claiming(limit=ACTIVE)),
    "a limit of active jobs in a group": (Feature.ACTIVE_LIMITS, claiming(group_limit=ACTIVE)),
    "a rate": (Feature.RATE_LIMITS, claiming(limit=RATE)),
    "a rate of a group": (Feature.RATE_LIMITS, claiming(group_limit=RATE)),
}


@area("honesty")
class Honesty:
    """`Store.features`."""

    async def test_features_are_a_set_of_features_that_does_not_change(self, store: Store) -> None:
        before = store.features
        await add(store, job("a"))

        assert isinstance(before, frozenset)
        assert all(isinstance(feature, Feature) for feature in before)
        assert store.features == before

    @pytest.mark.parametrize("use", USES)
    async def test_a_declared_feature_is_there_and_an_undeclared_one_is_refused(
        self, store: Store, use: str
    ) -> None:
        feature, call = USES[use]
        await add(store, job("there"))

        if feature in store.features:
            try:
                await call(store)
            except UnsupportedFeatureError as error:
                assert error.feature != feature, f"{feature} is declared, and refused"  # noqa: PT017
            return

        with pytest.raises(UnsupportedFeatureError) as caught:
            await call(store)
        assert caught.value.feature in set(Feature) - store.features
        assert caught.value.store == type(store).__name__
        assert set(await states(store)) == {"there"}, "a refused call stores nothing"

    async def test_a_refused_call_hurts_no_other(self, store: Store) -> None:
        await add(store, job("there"))
        for feature, call in USES.values():
            if feature in store.features:
                continue
            with pytest.raises(UnsupportedFeatureError):
                await call(store)

            [found] = await everything(store)
            held = found if found.state is JobState.ACTIVE else (await claim_jobs(store))[0]
            assert (await store.settle([Outcome.given_back(held)], now=at(1))).applied == {held.lease}
