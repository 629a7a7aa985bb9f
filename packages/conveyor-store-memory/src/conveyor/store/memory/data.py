"""All queues of one store, and the steps of a job's life that reach beyond its own queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from heapq import merge
from itertools import count, takewhile

from conveyor.core.store import (
    TERMINAL,
    Deleted,
    JobKey,
    JobRecord,
    JobState,
    Order,
    Outcome,
    Release,
    Retention,
    Where,
)
from conveyor.store.memory.matching import ORDERS, matching
from conveyor.store.memory.queues import Queue
from conveyor.store.memory.rows import DELAYED, WAITING, WAITING_CHILDREN, Row


class Data:
    """What the handles of one store share."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self.next_seq = count(1)
        #: The children of each parent, there or not, in the order they were added.
        self._children: dict[JobKey, dict[Row, None]] = {}
        #: How many of them have not released it.
        self._unreleased = Counter[JobKey]()

    def queue(self, name: str) -> Queue:
        """The queue of that name."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name)
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
        """Take a new job in."""
        self.queue(row.queue).add(row)
        if row.parent is not None:
            self._children.setdefault(row.parent, {})[row] = None
            self._unreleased[row.parent] += not row.released

    def remove(self, row: Row, now: datetime) -> JobKey | None:
        """Let a job go, in whatever state; it releases its parent if it has not yet.

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
        """Let these jobs go."""
        removed = tuple(row.key for row in rows)
        released = [parent for row in rows if (parent := self.remove(row, now)) is not None]
        gone = frozenset(removed)
        return Deleted(removed=removed, released=tuple(key for key in released if key not in gone))

    def wait(self, row: Row, now: datetime, run_at: datetime | None = None) -> None:
        """Have a job run at that instant, or at once if it has passed or there is none."""
        queue = self.queues[row.queue]
        queue.leave(row)
        later = run_at is not None and run_at > now
        row.state = DELAYED if later else WAITING
        row.run_at = run_at if later else None
        row.delay = None
        row.let_go()
        queue.enter(row)

    def wait_for_children(self, row: Row, pending: int) -> None:
        """Have a job wait for that many children."""
        queue = self.queues[row.queue]
        queue.leave(row)
        row.state = WAITING_CHILDREN
        row.pending = pending
        row.let_go()
        queue.enter(row)

    def go_back(self, row: Row, now: datetime) -> None:
        """Undo a claim: the job returns to where it was."""
        if row.pending:
            self.wait_for_children(row, row.pending)
        else:
            self.wait(row, now, row.run_at)

    def end(self, row: Row, outcome: Outcome, now: datetime) -> JobKey | None:
        """Finish a job, and return its parent if that has nothing to wait for any more."""
        queue = self.queues[row.queue]
        queue.leave(row)
        row.state = outcome.state
        row.finished_at = now
        row.delay = row.run_at = None
        row.pending = 0
        row.cancel_requested = False
        row.let_go()
        if row.unique_for is None or not row.holds(now):
            queue.drop_key(row)
        if outcome.retention is not None:
            retain(row, outcome.retention, now)
        queue.enter(row)
        parent = self.release(row, outcome.release, now)
        if outcome.retention is not None and row.expires_at is not None and row.expires_at <= now:
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
        parent.pending = parent.pending - 1 if how is Release.ONE else 0
        if parent.pending:
            return None
        if parent.delay is not None:
            parent.run_at, parent.delay = now + parent.delay, None
        if parent.state is not WAITING_CHILDREN:  # somebody claimed it by its id, and may give it back
            return None
        self.wait(parent, now, parent.run_at)
        return row.parent

    def retry(self, row: Row, now: datetime) -> bool:
        """Take a finished job back to waiting, unless another job holds its key."""
        if row.state not in TERMINAL or not self._take_key_again(row, now):
            return False
        self.wait(row, now)
        _begin_again(row)
        self._take_release_back(row, now)
        return True

    def _take_release_back(self, row: Row, now: datetime) -> None:
        """Have the parent wait again for a child that had released it, unless it went on since."""
        parent = self.row(*row.parent) if row.parent is not None and row.released else None
        if parent is None or parent.state not in _REOPENED:
            return
        row.released = False
        self._unreleased[parent.key] += 1
        failed = parent.state is JobState.FAILED
        if failed:
            self._take_key_again(parent, now)
        self.wait_for_children(parent, self._unreleased[parent.key])
        if failed:
            _begin_again(parent)
            self._take_release_back(parent, now)

    def _take_key_again(self, row: Row, now: datetime) -> bool:
        """Have the job hold its key as before it ended; say no if another job does."""
        if row.unique_key is None or row.unique_for is not None:
            return True
        queue = self.queues[row.queue]
        if queue.holder(row.unique_key, now) is not None:
            return False
        queue.take_key(row)
        return True

    def _queues(self, where: Where) -> Iterable[Queue]:
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
    queue: Queue, state: JobState, after: JobRecord | None, where: Where, now: datetime
) -> Iterable[Row]:
    """The rows without a retention of a state, earliest first; no further than to the youngest asked for."""
    rows = queue.states.unretained(state, after)
    if where.older_than is None:
        return rows
    last = now - where.older_than
    return takewhile(lambda row: row.finished_at is not None and row.finished_at <= last, rows)


def retain(row: Row, retention: Retention, now: datetime) -> None:
    """Say until when a finished job is kept: at least while it holds its key."""
    row.keep_count = retention.count
    row.expires_at = None if retention.age is None else (row.finished_at or now) + retention.age
    if row.expires_at is not None and row.unique_until is not None and row.holds(now):
        row.expires_at = max(row.expires_at, row.unique_until)


def _begin_again(row: Row) -> None:
    row.attempt = row.stalled = 0
    row.processed_at = row.finished_at = row.expires_at = row.keep_count = None
    row.cancel_requested = False


_REOPENED = frozenset({WAITING, WAITING_CHILDREN, JobState.FAILED})
