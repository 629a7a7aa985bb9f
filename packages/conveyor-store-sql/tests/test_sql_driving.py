"""Steps that never wait, and one that does."""

import asyncio

import pytest

from conveyor.store.sql import run_now


async def test_a_step_that_waits_for_nothing_runs_to_its_end() -> None:
    async def inner() -> int:
        return 3

    async def step() -> int:
        return await inner() + await inner()

    assert run_now(step()) == 6


async def test_an_error_of_a_step_is_its_callers() -> None:
    async def step() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        run_now(step())


async def test_a_step_that_waits_is_refused() -> None:
    async def step() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="has waited"):
        run_now(step())
