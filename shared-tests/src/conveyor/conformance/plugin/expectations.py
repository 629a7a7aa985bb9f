"""What a failing test expected of the store, in a sentence, and where the rule stands that it is of."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

#: The title of the section that a failing test has below its traceback.
TITLE: Final = "What was expected of the store"
_CALLS: Final = "conveyor.core.store.StoreCalls"
_INVARIANTS: Final = "conveyor.core.store.contract"

#: For each area, what `python -m pydoc` shows its rules of.
RULES: Final = {
    "inserting": f"{_CALLS}.insert",
    "claiming": f"{_CALLS}.claim",
    "renewing": f"{_CALLS}.renew",
    "settling": f"{_CALLS}.settle",
    "transitions": "conveyor.core.store.transitions",
    "advancing": f"{_CALLS}.advance",
    "sets": "conveyor.core.store.Where",
    "pausing": f"{_CALLS}.pause",
    "unique_keys": f"{_CALLS}.insert",
    "flows": f"{_CALLS}.settle",
    "groups": f"{_CALLS}.claim",
    "limits": f"{_CALLS}.claim",
    "events": "conveyor.core.events.Bus",
    "round_trips": "conveyor.core.store.JobRecord",
    "lifecycle": f"{_CALLS}.open",
    "honesty": "conveyor.core.store.Feature",
    "races": _INVARIANTS,
    "crashes": _INVARIANTS,
    "cancellations": _INVARIANTS,
    "interleavings": _INVARIANTS,
    "stalls": f"{_CALLS}.advance",
    "model": _INVARIANTS,
    "queue_behaviour": "conveyor.core.Queue",
    "flow_behaviour": "conveyor.core.FlowProducer",
    "deduplication": "conveyor.core.Deduplication",
    "dead_letters": "conveyor.core.DeadLetter",
    "worker_registry": "conveyor.core.Queue.get_workers",
    "explain": "conveyor.core.Queue.explain",
    "group_behaviour": f"{_CALLS}.claim",
    "limit_behaviour": f"{_CALLS}.claim",
    "batches": "conveyor.core.Worker",
    "ageing": f"{_CALLS}.insert",
    "schedules": "conveyor.core.Schedule",
    "using": "conveyor.core.store.Store.using",
}


def sentence(test: object) -> str:
    """What a test expects: how its docstring begins, or else its name, which is a sentence."""
    described = (inspect.getdoc(test) or "").partition("\n\n")[0].replace("\n", " ").rstrip(".")
    words = described or str(getattr(test, "__name__", "")).removeprefix("test_").replace("_", " ")
    return f"{words[:1].upper()}{words[1:]}."


def expected(item: pytest.Item, area: str) -> str:
    """The text of the section for a test of the suite."""
    test = getattr(item, "function", None)
    case = item.name.partition("[")[2].removesuffix("]")
    return "\n".join(
        [
            sentence(test) + (f" (Here: {case}.)" if case else ""),
            f"The rule: python -m pydoc {RULES[area.replace(' ', '_')]}",
            f"The whole area: pytest --pyargs conveyor.conformance --conveyor-area {area.replace(' ', '_')}",
        ]
    )
