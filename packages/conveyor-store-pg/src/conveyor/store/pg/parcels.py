"""Events as notifications: texts that PostgreSQL takes, and back.

A payload is less than 8,000 bytes, so events travel as one text, cut into parts; those of a transaction
arrive together and in order. What would be too much is left out, and a `Gap` tells how much.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from conveyor.core.events import Event, Gap, decode, encode

#: The most of a text in one notification, and of all in one transaction, in bytes.
_PART: Final = 7_500
_MOST: Final = 128_000


def channel(schema: str) -> str:
    """The name that a schema's notifications go by, short whatever the schema's name."""
    return "conveyor_" + hashlib.blake2b(schema.encode(), digest_size=8).hexdigest()


def parts(handle: str, number: int, events: Iterable[Event]) -> list[str]:
    """The payloads to send, in order; `number` tells this parcel from the sender's others."""
    text = encode(_fitting(events)).encode()
    cut = list(_cut(text))
    return [f"{handle}:{number}:{place}:{len(cut)}:{part}" for place, part in enumerate(cut)]


class Parcels:
    """Puts parcels together again."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._open: dict[str, tuple[str, list[str]]] = {}

    def take(self, payload: str, *, but: str) -> Sequence[Event]:
        """The events of the parcel that is complete with this; none of those sent by the handle `but`.

        A notification that is none of ours is left out: any user of the database may send one.
        """
        try:
            handle, number, place, count, part = payload.split(":", 4)
            index, total = int(place), int(count)
        except ValueError:
            return ()
        if handle == but:
            return ()
        known, found = self._open.pop(handle, (number, []))
        if known != number:
            found = []
        if index != len(found):
            return ()
        found.append(part)
        if len(found) < total:
            self._open[handle] = number, found
            return ()
        return decode("".join(found))

    def clear(self) -> None:
        """Let go of what is incomplete."""
        self._open.clear()


def _fitting(events: Iterable[Event]) -> list[Event]:
    """The events as far as there is room, and a gap for each queue of which some are left out."""
    found: list[Event] = []
    missed: Counter[str] = Counter()
    room = _MOST
    for event in events:
        size = len(encode([event]).encode())
        if missed[event.queue_name] or size > room:
            missed[event.queue_name] += event.missed if isinstance(event, Gap) else 1
        else:
            room -= size
            found.append(event)
    now = datetime.now(UTC)
    return found + [Gap(queue_name=queue, at=now, missed=count) for queue, count in missed.items() if count]


def _cut(text: bytes) -> Iterator[str]:
    """Pieces of UTF-8 text, cut between characters."""
    start = 0
    while start < len(text):
        end = min(start + _PART, len(text))
        while end < len(text) and text[end] & 0xC0 == 0x80:  # noqa: PLR2004 - a byte within a character
            end -= 1
        yield text[start:end].decode()
        start = end
