"""The contract, whole: every area, and the fixtures they stand on."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from conveyor.conformance.behaviour.ageing import Ageing
from conveyor.conformance.behaviour.batches import Batches
from conveyor.conformance.behaviour.dead_letters import DeadLetters
from conveyor.conformance.behaviour.deduplication import DeduplicationModes
from conveyor.conformance.behaviour.explain import Explaining
from conveyor.conformance.behaviour.flows import AllFlowBehaviour
from conveyor.conformance.behaviour.groups import GroupBehaviour
from conveyor.conformance.behaviour.lifecycle import Lifecycle
from conveyor.conformance.behaviour.limits import LimitBehaviour
from conveyor.conformance.behaviour.queues import QueueBehaviour
from conveyor.conformance.behaviour.schedules import Schedules
from conveyor.conformance.behaviour.using import Transaction, Using
from conveyor.conformance.behaviour.worker_registry import WorkerRegistry
from conveyor.conformance.concurrency.cancellations import Cancellations
from conveyor.conformance.concurrency.crashes import Crashes
from conveyor.conformance.concurrency.interleavings.every_call import Interleavings
from conveyor.conformance.concurrency.model.agreeing import Model
from conveyor.conformance.concurrency.races import AllRaces
from conveyor.conformance.concurrency.stalls import AllStalls
from conveyor.conformance.contract.advancing import Advancing
from conveyor.conformance.contract.claiming import Claiming
from conveyor.conformance.contract.events import AllEvents
from conveyor.conformance.contract.flows import Flows
from conveyor.conformance.contract.groups import Groups
from conveyor.conformance.contract.honesty import Honesty
from conveyor.conformance.contract.inserting import Inserting
from conveyor.conformance.contract.limits import Limits
from conveyor.conformance.contract.pausing import Pausing
from conveyor.conformance.contract.renewing import Renewing
from conveyor.conformance.contract.round_trips import RoundTrips
from conveyor.conformance.contract.sets import Sets
from conveyor.conformance.contract.settling import Settling
from conveyor.conformance.contract.transitions import Transitions
from conveyor.conformance.contract.unique_keys import UniqueKeys
from conveyor.conformance.kit.bench import Bench
from conveyor.conformance.plugin.areas import NOT_OFFERED
from conveyor.core.discovery import open_store
from conveyor.core.store import Feature, Store


class Fixtures:
    """What a test of the contract may ask for: `store`, `peer`, `handles`, `store_url` and `transaction`.

    A subclass names an installed scheme in `store_scheme`, or overrides `store` (and `peer`).
    """

    store_scheme: ClassVar[str | None] = None
    store_is_made_by_hand: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let `@pytest.fixture async def store` work in whatever mode pytest-asyncio is."""
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "store" in own or "store_url" in own:
            cls.store_is_made_by_hand = True
        for value in list(own.values()):
            function = getattr(value, "__wrapped__", None)
            is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
            if function is not None and is_async and not function.__name__.startswith("test_"):
                pytest_asyncio.fixture(function)

    @pytest.fixture
    def store_url(self, conveyor_url: str | None) -> str | None:
        """The URL of this test's data; None for a store that is made by hand and has none."""
        return conveyor_url

    @pytest_asyncio.fixture
    async def store(self, store_url: str | None) -> AsyncIterator[Store]:
        """A fresh store, open and empty."""
        assert store_url is not None
        async with open_store(store_url) as store:
            yield store

    @pytest_asyncio.fixture
    async def peer(self, store: Store, store_url: str | None) -> AsyncIterator[Store]:
        """A second handle on the same data, open."""
        if Feature.MULTI_PROCESS not in store.features:
            pytest.skip(f"{NOT_OFFERED}{Feature.MULTI_PROCESS.value}")
        if store_url is None:
            pytest.skip("needs a second handle on the same data: give the class a `peer` fixture")
        async with open_store(store_url) as peer:
            yield peer

    @pytest.fixture
    def handles(self, request: pytest.FixtureRequest, store: Store) -> Sequence[Store]:
        """Two handles on the same data; one handle twice where the store has but one."""
        if Feature.MULTI_PROCESS in store.features:
            peer: Store = request.getfixturevalue("peer")
            return (store, peer)
        return (store, store)

    @pytest.fixture
    def transaction(self) -> Transaction:
        """Begins a user's transaction, for `Store.using`. Override it for a store that takes part in one."""
        return nullcontext

    @pytest.fixture
    def bench(self, store: Store) -> Bench:
        """A queue and workers on the store, with a clock that is turned by hand."""
        return Bench(store)

    @pytest.fixture(autouse=True)
    def _only_what_is_offered(self, request: pytest.FixtureRequest, store: Store) -> None:
        """Report a test of an undeclared feature as not offered."""
        wanted: frozenset[Feature] = getattr(request.function, "conveyor_needs", frozenset())
        if lacking := sorted(feature.value for feature in wanted - store.features):
            pytest.skip(f"{NOT_OFFERED}{', '.join(lacking)}")


class StoreContract(
    Inserting,
    Claiming,
    Renewing,
    Settling,
    Transitions,
    Advancing,
    Sets,
    Pausing,
    UniqueKeys,
    Flows,
    Groups,
    Limits,
    AllEvents,
    RoundTrips,
    Lifecycle,
    Honesty,
    AllRaces,
    Crashes,
    Cancellations,
    Interleavings,
    AllStalls,
    Model,
    QueueBehaviour,
    AllFlowBehaviour,
    DeduplicationModes,
    DeadLetters,
    WorkerRegistry,
    Explaining,
    GroupBehaviour,
    LimitBehaviour,
    Batches,
    Ageing,
    Schedules,
    Using,
    Fixtures,
):
    """Every test that a store must pass. New ones reach every subclass by themselves."""
