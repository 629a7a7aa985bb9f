"""What the processes that listen to events want, as a store keeps it for the others."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from conveyor.core.events import EVENTS, Event

#: The names of the kinds of events that are wanted of each queue; None: all kinds.
Wanted = Mapping[str, Sequence[str] | None]

_EVERYTHING: Final = frozenset(EVENTS.values())


def encoded_wants(wanted: Mapping[str, Collection[type[Event]]]) -> str:
    """What subscribers of this process want, as JSON text."""
    return json.dumps(
        {
            queue: None if _EVERYTHING.issubset(kinds) else sorted(kind.__name__ for kind in kinds)
            for queue, kinds in wanted.items()
        }
    )


def decoded_wants(text: str) -> Wanted:
    """What was encoded so; raises ValueError for what was not: it is not of this release, or not of ours."""
    found: Wanted = dict(json.loads(text))
    return found
