"""No call costs more for the jobs it is not about: bytecodes, counted."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import pytest

from conveyor.conformance.contract.costs import SHAPES, costs, fill, grown
from conveyor.store.memory import MemoryStore
from conveyor.store.memory.rows_by_state import States

FEW, MANY = 2_000, 20_000
#: More for a deeper tree, a fuller page: no call of ten jobs may cost that for the size of the table.
SPARE = 2_000


async def counted(call: Callable[[], Awaitable[Any]]) -> tuple[int, Any]:
    """Make a call, and count the bytecodes that it runs."""
    codes = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal codes
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        codes += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        answer = await call()
    finally:
        sys.settrace(before)
    return codes, answer


async def bill(shape: str, number: int) -> dict[str, int]:
    async with MemoryStore() as store:
        await fill(store, shape, number)
        return await costs(store, counted)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
async def test_no_call_costs_more_beside_a_great_many_jobs(shape: str) -> None:
    few, many = await bill(shape, FEW), await bill(shape, MANY)

    assert grown(few, many, spare=SPARE) == {}


@pytest.mark.slow
async def test_a_look_at_all_rows_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    added = States.added
    monkeypatch.setattr(States, "added", lambda *asked: iter([row for row in added(*asked) if row.seq]))

    few, many = await bill("waiting", 500), await bill("waiting", 5_000)

    assert {"find all, added", "find waiting, added", "delete waiting"} <= set(grown(few, many, spare=SPARE))
