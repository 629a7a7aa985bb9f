"""The wire format of events: from events to the payloads of notifications, and back.

A payload is less than 8,000 bytes, so events travel as one text, cut into chunks; those of a transaction
arrive together and in order. What would be too much is left out, and a `Gap` tells how much.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from conveyor.core.events import Event, Gap, decode, encode

#: The largest chunk, and the largest text in one transaction, in bytes.
_CHUNK: Final = 7_500
_MOST: Final = 128_000


def channel(schema: str) -> str:
    """The channel of a schema's notifications, whose name is short whatever the schema's is."""
    return "conveyor_" + hashlib.blake2b(schema.encode(), digest_size=8).hexdigest()


def chunks(handle: str, number: int, events: Iterable[Event]) -> list[str]:
    """The payloads of a message, in order; `number` is that of the message among those of its sender."""
    text = encode(_fitting(events)).encode()
    cut = list(_cut(text))
    return [f"{handle}:{number}:{index}:{len(cut)}:{chunk}" for index, chunk in enumerate(cut)]


class Assembler:
    """Puts messages together from their chunks."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._open: dict[str, tuple[str, list[str]]] = {}

    def add(self, payload: str, *, ignored: str) -> Sequence[Event]:
        """The events of the message that is complete with this chunk; none of those sent by `ignored`.

        A notification that is none of ours is left out: any user of the database may send one.
        """
        try:
            handle, number, position, count, chunk = payload.split(":", 4)
            index, total = int(position), int(count)
        except ValueError:
            return ()
        if handle == ignored:
            return ()
        known, found = self._open.pop(handle, (number, []))
        if known != number:
            found = []
        if index != len(found):
            return ()
        found.append(chunk)
        if len(found) < total:
            self._open[handle] = number, found
            return ()
        return decode("".join(found))

    def clear(self) -> None:
        """Forget the messages that are incomplete."""
        self._open.clear()


def _fitting(events: Iterable[Event]) -> list[Event]:
    """The events as far as they fit, and a gap for each queue of which some are left out."""
    found: list[Event] = []
    missed: Counter[str] = Counter()
    left = _MOST
    for event in events:
        size = len(encode([event]).encode())
        if missed[event.queue_name] or size > left:
            missed[event.queue_name] += event.missed if isinstance(event, Gap) else 1
        else:
            left -= size
            found.append(event)
    now = datetime.now(UTC)
    return found + [Gap(queue_name=queue, at=now, missed=count) for queue, count in missed.items() if count]


def _cut(text: bytes) -> Iterator[str]:
    """Pieces of UTF-8 text, cut between characters."""
    start = 0
    while start < len(text):
        end = min(start + _CHUNK, len(text))
        while end < len(text) and text[end] & 0xC0 == 0x80:  # noqa: PLR2004 - a byte within a character
            end -= 1
        yield text[start:end].decode()
        start = end
