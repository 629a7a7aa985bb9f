"""How a pause is stored: what kind of thing it holds up, and which."""

from __future__ import annotations

from typing import Literal, NamedTuple

from conveyor.core.store import Pause


class PauseKey(NamedTuple):
    """What a pause is of; a queue as a whole has no target."""

    kind: Literal["queue", "name", "group"]
    target: str = ""

    @classmethod
    def of(cls, what: Pause) -> PauseKey:
        """The key to store a pause by."""
        if what.name is not None:
            return cls("name", what.name)
        if what.group is not None:
            return cls("group", what.group)
        return cls("queue")


def pause_of(kind: str, target: str) -> Pause:
    """The pause that was stored by a key."""
    return Pause(name=target if kind == "name" else None, group=target if kind == "group" else None)
