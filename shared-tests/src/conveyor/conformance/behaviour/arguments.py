"""Queue behaviour: what cannot be an id is refused before the store is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest

from conveyor.conformance.kit.anything import ANYTHING
from conveyor.conformance.kit.area import area
from conveyor.core import InvalidOptionError, NewJob, Queue
from conveyor.core.store import Store
from conveyor.core.testing import FaultyStore

Call = Callable[[Queue[Any], Any], Awaitable[Any] | AsyncIterator[Any]]
#: What takes an id, by the option that its error names.
IDS: Final[list[tuple[str, Call]]] = [
    ("job_id", lambda queue, value: queue.get_job(value)),
    ("job_id", lambda queue, value: queue.explain(value)),
    ("job_id", lambda queue, value: queue.observe(value)),
    ("job_id", lambda queue, value: queue.cancel(value)),
    ("job_id", lambda queue, value: queue.remove(value)),
    ("job_id", lambda queue, value: queue.add("work", job_id=value)),
    ("job_id", lambda queue, value: queue.add_bulk([NewJob("work"), NewJob("work", job_id=value)])),
    ("ids", lambda queue, value: queue.redrive(ids=[value])),
    ("group", lambda queue, value: queue.get_group(value)),
    ("group", lambda queue, value: queue.drain(group=value)),
    ("group", lambda queue, value: queue.pause(group=value)),
    ("group", lambda queue, value: queue.resume(group=value)),
    ("key", lambda queue, value: queue.get_schedule(value)),
    ("key", lambda queue, value: queue.pause_schedule(value)),
    ("key", lambda queue, value: queue.resume_schedule(value)),
    ("key", lambda queue, value: queue.trigger_schedule(value)),
    ("key", lambda queue, value: queue.remove_schedule(value)),
    ("key", lambda queue, value: queue.every(60, "work", key=value)),
]
WRONG: Final = [
    *("True", "5", "1.5", "bytes", "list", "empty dict", "object"),
    *("empty text", "NUL", "surrogate", "control", "long text"),
]


@area("queue behaviour")
class Arguments:
    """Ids, groups and keys, as they are given to a queue."""

    async def test_what_cannot_be_an_id_never_reaches_the_store(self, store: Store) -> None:
        seen = FaultyStore(store)
        queue: Queue[Any] = Queue("q", seen)
        await queue.add("work", job_id="5")
        seen.calls.clear()

        for option, call in IDS:
            for what in WRONG:
                with pytest.raises(InvalidOptionError) as refused:
                    await _first(call(queue, ANYTHING[what]))
                assert refused.value.option == option, what
        assert seen.calls == []

        found = await queue.get_job("5")
        assert found is not None
        assert found.id == "5"


async def _first(source: Awaitable[Any] | AsyncIterator[Any]) -> None:
    await (anext(source) if isinstance(source, AsyncIterator) else source)
