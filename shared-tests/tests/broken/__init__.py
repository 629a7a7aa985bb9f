"""Stores and engines with one deliberate bug each, by what the bug is about.

The stores are `MemoryStore` with one thing wrong. Where a bug needs a moment between looking and acting, as
between two statements of a database, that is an `await` of nothing.
"""

from broken import (
    behaviour,
    cancelling,
    deciding,
    engine,
    fencing,
    flows,
    held_parents,
    keeping,
    limits,
    order,
    pausing,
    races,
    refusing,
    rest,
    second_steps,
    sets,
    stalling,
    steps,
    time,
    unique_keys,
    using,
)
from broken.engine import ENGINE_BUGS, EngineBug
from broken.store import BUGS, Bug

__all__ = [
    "BUGS",
    "ENGINE_BUGS",
    "Bug",
    "EngineBug",
    "behaviour",
    "cancelling",
    "deciding",
    "engine",
    "fencing",
    "flows",
    "held_parents",
    "keeping",
    "limits",
    "order",
    "pausing",
    "races",
    "refusing",
    "rest",
    "second_steps",
    "sets",
    "stalling",
    "steps",
    "time",
    "unique_keys",
    "using",
]
