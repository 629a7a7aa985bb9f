"""The model: random histories on the store and on `MemoryStore`, which must agree on every answer.

Hypothesis makes the histories, and shortens one that shows a difference. After each step both stores are
read whole and compared, `seq` aside (only its order is promised).
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from conveyor.conformance.concurrency.model.histories import Histories
from conveyor.conformance.concurrency.model.replay import replay
from conveyor.conformance.concurrency.model.steps import Step
from conveyor.conformance.kit.area import area, patient
from conveyor.core.store import (
    Store,
)
from conveyor.store.memory import MemoryStore

EXAMPLES = 120
PHASES = (Phase.generate, Phase.shrink)


@area("model")
class Model:
    """Random histories."""

    @patient
    async def test_random_histories_give_the_same_answers_as_the_memory_store(
        self, store: Store, pytestconfig: pytest.Config
    ) -> None:
        asked_for: Any = pytestconfig.getoption("--conveyor-examples")
        steps: Any = pytestconfig.getoption("--conveyor-steps")
        loop = asyncio.get_running_loop()

        def play(history: list[Step]) -> None:
            asyncio.run_coroutine_threadsafe(replay(store, history), loop).result()

        histories = Histories(store.features).of(steps)
        run = settings(
            max_examples=asked_for or (EXAMPLES // 4 if type(store) is MemoryStore else EXAMPLES),
            derandomize=asked_for is None,
            database=None,
            deadline=None,
            phases=PHASES,
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.filter_too_much,
            ],
            print_blob=False,
        )(given(histories)(play))
        await asyncio.to_thread(run)
