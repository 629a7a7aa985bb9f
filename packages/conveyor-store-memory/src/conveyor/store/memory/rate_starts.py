"""When jobs were started, for rate limits: of one queue, or of each of its groups."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime, timedelta

from sortedcontainers import SortedList

from conveyor.core.store import Rate
from conveyor.store.memory.rows import FOREVER


class Starts:
    """The starts of each key, for as long as the longest window registered so far needs them."""

    def __init__(self) -> None:
        self._longest = timedelta(0)
        #: Starts at or before this are forgotten, whether or not they are still in the lists.
        self._horizon = datetime.min.replace(tzinfo=UTC)
        #: The key that started last comes last.
        self._by_key: OrderedDict[str | None, SortedList[datetime]] = OrderedDict()

    def register_window(self, rate: Rate, now: datetime) -> None:
        """Note that a claim asks for this window now, and forget what no window needs."""
        self._longest = max(self._longest, rate.per)
        self.forget(now)

    def add(self, key: str | None, now: datetime) -> None:
        """One more start."""
        # Nothing was forgotten before it began, though the clock was set back or no window was known yet.
        self._horizon = min(self._horizon, now - timedelta.resolution)
        starts = self._by_key.pop(key, None) or SortedList()
        del starts[: starts.bisect_right(self._horizon)]
        starts.add(now)
        self._by_key[key] = starts

    def free_at(self, key: str | None, rate: Rate, now: datetime) -> datetime:
        """When the next start is allowed: now, if it is."""
        if rate.max < 1:
            return FOREVER
        starts = self._by_key.get(key)
        if starts is None:
            return now
        upto = starts.bisect_right(now)
        counted = upto - starts.bisect_right(max(now - rate.per, self._horizon))
        if counted < rate.max:
            return now
        return starts[upto - rate.max] + rate.per

    def forget(self, now: datetime) -> None:
        """Forget the starts that no window needs."""
        self._horizon = max(self._horizon, now - self._longest)
        while self._by_key:
            oldest = next(iter(self._by_key))
            if self._by_key[oldest][-1] > self._horizon:
                return
            del self._by_key[oldest]
