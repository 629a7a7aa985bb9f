"""The contract on a store whose calls each take a tenth of a second longer: no test may depend on speed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from delaying import DelayingStore

from conveyor.conformance import StoreContract

pytest_plugins = ["pytester"]

#: What a slow store failed once, and a test that looks while calls are under way.
SAMPLE: Final = (
    "test_what_it_runs_is_registered_with_its_heartbeat",
    "test_what_a_worker_registers_of_itself_keeps_no_lease_from_being_renewed",
    "test_a_queues_events_follow_a_jobs_life",
    "test_a_waiter_that_missed_the_event_finds_the_result",
    "test_no_look_shows_an_outcome_without_what_it_spawned",
    "test_the_registration_of_a_dead_worker_is_removed_by_the_others",
)


class TestSample(StoreContract):
    """A few tests."""

    @pytest.fixture
    async def store(  # pyright: ignore[reportIncompatibleMethodOverride] - as the README has it
        self,
    ) -> AsyncIterator[DelayingStore]:
        async with DelayingStore() as store:
            yield store


for name in dir(TestSample):
    if name.startswith("test_") and name not in SAMPLE:
        setattr(TestSample, name, None)


def test_every_test_of_the_sample_is_there() -> None:
    assert [name for name in SAMPLE if getattr(TestSample, name, None) is None] == []


@pytest.mark.chaos
def test_the_whole_contract_can_be_shown_on_a_slow_store(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    pytester.makepyfile(
        """
        import pytest
        from conveyor.conformance import StoreContract
        from delaying import DelayingStore

        class TestWhole(StoreContract):
            @pytest.fixture
            async def store(self):
                async with DelayingStore() as store:
                    yield store
        """
    )
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")

    # most of it is sleep; the model's 120 histories would be an hour of it
    result = pytester.runpytest_subprocess("-n", "8", "-q", "--tb=short", "--conveyor-examples", "4")

    assert result.ret == 0
