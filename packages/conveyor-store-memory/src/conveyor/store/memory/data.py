"""All queues of one store, and the steps of a job's life that reach beyond its own queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from heapq import merge
from itertools import count, takewhile
from typing import Final

from conveyor.core.store import (
    TERMINAL,
    Deleted,
    JobKey,
    JobRecord,
    JobState,
    Order,
    Outcome,
    Release,
    Where,
    transitions,
)
from conveyor.store.memory.matching import ORDERS, matching
from conveyor.store.memory.queues import StoredQueue
from conveyor.store.memory.rows import Row


class Data:
    """What the handles of one store share."""

    def __init__(self) -> None:
        self.queues: dict[str, StoredQueue] = {}
        self.next_seq = count(1)
        #: The children of each parent, there or not, in the order they were added.
        self._children: dict[JobKey, dict[Row, None]] = {}
        #: How many of them have not released it.
        self._unreleased = Counter[JobKey]()

    def queue(self, name: str) -> StoredQueue:
        """The queue of that name."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = StoredQueue(name)
        return queue

    def row(self, queue: str, job_id: str) -> Row | None:
        """The job with that identity."""
        found = self.queues.get(queue)
        return found.rows.get(job_id) if found is not None else None

    def rows(
        self, where: Where, now: datetime, order: Order = Order.ADDED, after: JobRecord | None = None
    ) -> Iterator[Row]:
        """The jobs that `where` means, in that order, behind a job."""
        return matching(where, self._candidates(where, now, order, after), now)

    def totals(self, where: Where) -> dict[tuple[str | None, JobState], int]:
        """How many jobs there are of the queue and of the states in `where`, by queue and state."""
        return {
            (queue.name, state): queue.states.count(state)
            for queue in self._queues(where)
            for state in (JobState if where.states is None else where.states)
            if queue.states.count(state)
        }

    def add(self, row: Row) -> None:
        """Add a new job."""
        self.queue(row.queue).add(row)
        if row.parent is not None:
            self._children.setdefault(row.parent, {})[row] = None
            self._unreleased[row.parent] += not row.released

    def remove(self, row: Row, now: datetime) -> JobKey | None:
        """Remove a job, in whatever state; it releases its parent if it has not yet.

        Returns the parent if that has nothing to wait for any more.
        """
        parent = self.release(row, Release.ONE, now)
        self.queues[row.queue].remove(row, now)
        if row.parent is not None:
            siblings = self._children[row.parent]
            del siblings[row]
            if not siblings:
                del self._children[row.parent], self._unreleased[row.parent]
        return parent

    def remove_all(self, rows: Collection[Row], now: datetime) -> Deleted:
        """Remove these jobs."""
        removed = tuple(row.key for row in rows)
        released = [parent for row in rows if (parent := self.remove(row, now)) is not None]
        gone = frozenset(removed)
        return Deleted(removed=removed, released=tuple(key for key in released if key not in gone))

    def put(self, row: Row, fields: transitions.Fields) -> None:
        """Write these fields of a job, and keep it where they say that it belongs."""
        queue = self.queues[row.queue]
        reindexed = not _INDEXED.isdisjoint(fields)
        if reindexed:
            queue.leave(row)
        holds_key = fields.pop("holds_key", None)
        if holds_key:
            queue.take_key(row)
        elif holds_key is not None:
            queue.drop_key(row)
        for name, value in fields.items():
            setattr(row, name, value)
        if reindexed:
            queue.enter(row)

    def settle(self, row: Row, outcome: Outcome, now: datetime) -> JobKey | None:
        """Apply an outcome, and return the parent if that has nothing to wait for any more."""
        self.put(row, transitions.settled(row, outcome, now))
        if row.state not in TERMINAL:
            return None
        parent = self.release(row, outcome.release, now)
        if outcome.retention is not None and transitions.due_for_removal(row, now):
            self.remove(row, now)
        return parent

    def release(self, row: Row, how: Release, now: datetime) -> JobKey | None:
        """Have a child release its parent if it has not; return that if it waits for none now."""
        if row.parent is None or row.released:
            return None
        row.released = True
        self._unreleased[row.parent] -= 1
        parent = self.row(*row.parent)
        if parent is None or not parent.pending:
            return None
        fields = transitions.released(parent, how, now)
        self.put(parent, fields)
        return row.parent if "state" in fields else None

    def retry(self, row: Row, now: datetime) -> bool:
        """Take a finished job back to waiting, unless another job holds its key."""
        if row.state not in TERMINAL or (
            transitions.takes_key_again(row) and not self._key_is_free(row, now)
        ):
            return False
        self.put(row, transitions.retried(row, now))
        self._reopen_parent(row, now)
        return True

    def _reopen_parent(self, row: Row, now: datetime) -> None:
        """Have the parent wait again for a child that had released it, unless it went on since."""
        parent = self.row(*row.parent) if row.parent is not None and row.released else None
        if parent is None or not transitions.reopens(parent):
            return
        row.released = False
        self._unreleased[parent.key] += 1
        failed = parent.state is JobState.FAILED
        takes_key = failed and transitions.takes_key_again(parent) and self._key_is_free(parent, now)
        self.put(parent, transitions.reopened(parent, self._unreleased[parent.key], takes_key=takes_key))
        if failed:
            self._reopen_parent(parent, now)

    def _key_is_free(self, row: Row, now: datetime) -> bool:
        return row.unique_key is None or self.queues[row.queue].holder(row.unique_key, now) is None

    def _queues(self, where: Where) -> Iterable[StoredQueue]:
        if where.queue is None:
            return self.queues.values()
        queue = self.queues.get(where.queue)
        return () if queue is None else (queue,)

    def _candidates(
        self, where: Where, now: datetime, order: Order, after: JobRecord | None
    ) -> Iterable[Row]:
        """The jobs among which those of `where` are, in that order, behind a job."""
        key = ORDERS[order]
        few = self._few(where, now)
        if few is None:
            states = frozenset(JobState) if where.states is None else where.states
            queues = self._queues(where)
            if where.unretained and order is Order.EARLIEST:
                found = [_over(q, state, after, where, now) for q in queues for state in states & TERMINAL]
            else:
                found = [q.in_order(state, order, after, where.group) for q in queues for state in states]
            return merge(*found, key=key) if len(found) > 1 else found[0] if found else ()
        rows = sorted(few, key=key)
        return rows if after is None else [row for row in rows if key(row) > key(after)]

    def _few(self, where: Where, now: datetime) -> Iterable[Row] | None:
        """The same if something else than their states finds them."""
        queues = self._queues(where)
        if where.parent is not None:
            found: Iterable[Row | None] = self._children.get(where.parent, ())
        elif where.ids is not None:
            found = [queue.rows.get(job_id) for queue in queues for job_id in where.ids]
        elif where.unique_key is not None:
            found = [queue.holder(where.unique_key, now) for queue in queues]
        elif where.expired:
            return [row for queue in queues for row in queue.states.over(now)]
        else:
            return None
        rows = [row for row in found if row is not None]
        return self._expired(rows, now) if where.expired else rows

    def _expired(self, rows: Iterable[Row], now: datetime) -> Iterator[Row]:
        """Those of these jobs whose retention, by age or by count, is over."""
        too_many: dict[str, set[Row]] = {}
        for row in rows:
            if row.expires_at is not None and row.expires_at <= now:
                yield row
            elif row.keep_count is not None:
                if row.queue not in too_many:
                    too_many[row.queue] = self.queues[row.queue].states.beyond_count(now)
                if row in too_many[row.queue]:
                    yield row


def _over(
    queue: StoredQueue, state: JobState, after: JobRecord | None, where: Where, now: datetime
) -> Iterable[Row]:
    """The rows without a retention of a state, earliest first; no further than to the youngest asked for."""
    rows = queue.states.unretained(state, after)
    if where.older_than is None:
        return rows
    last = now - where.older_than
    return takewhile(lambda row: row.finished_at is not None and row.finished_at <= last, rows)


#: What decides where a queue keeps a row.
_INDEXED: Final = frozenset(
    {"state", "run_at", "sort_key", "lease_until", "finished_at", "expires_at", "keep_count"}
)
