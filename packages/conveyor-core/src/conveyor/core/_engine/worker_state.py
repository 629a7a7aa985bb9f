"""Whether a worker runs, and the tasks that it runs in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class WorkerState:
    """How far a worker's life has come, and its tasks; of one that could not start, some of them."""

    #: "new", "running" or "closed".
    phase: str = "new"
    #: How many settlements are written, or are not to be written any more.
    settled: int = 0
    #: The task that is in `run_until_idle`.
    idler: asyncio.Task[Any] | None = None
    #: What may have a claim on its way.
    claiming: list[asyncio.Task[None]] = field(default_factory=list)
    maintaining: list[asyncio.Task[None]] = field(default_factory=list)
    #: What keeps the worker registered, and ends by removing its registration.
    registering: list[asyncio.Task[None]] = field(default_factory=list)
    #: What goes on until the end.
    others: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """All of them."""
        return [*self.claiming, *self.maintaining, *self.registering, *self.others]

    @property
    def loop_ends(self) -> bool:
        """Whether a task was cancelled, as when the event loop ends: by nothing that a handler does.

        A loop that ends (`asyncio.run`) cancels the tasks that there are, once. One that began after that
        would never end, and be complained of. Pinned by test_a_store_that_nobody_closed_ends_without_a_word.
        """
        return any(task.cancelling() > 0 for task in self.tasks)

    @property
    def is_ending(self) -> bool:
        """Whether the worker is closing or being cancelled, so that cancellations may come from outside."""
        left = self.idler is not None and (self.idler.done() or self.idler.cancelling() > 0)
        return self.phase == "closed" or self.loop_ends or left
