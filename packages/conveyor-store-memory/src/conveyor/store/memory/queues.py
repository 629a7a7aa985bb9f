"""One queue: its rows, and everything by which they are found without looking at all of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from heapq import merge
from typing import Final

from conveyor.core.store import Claim, JobRecord, JobState, Limit, Order, Pause
from conveyor.store.memory.claimable import ClaimableView, Shape
from conveyor.store.memory.fair_share import FairShare
from conveyor.store.memory.matching import ORDERS
from conveyor.store.memory.rate_starts import Starts
from conveyor.store.memory.rows import ACTIVE, DELAYED, FOREVER, WAITING, Row, tie_break
from conveyor.store.memory.rows_by_instant import Timeline
from conveyor.store.memory.rows_by_state import States
from conveyor.store.memory.subqueues import LiveGroup, SubQueue

#: More shapes of claims than the workers of a queue have; the one used longest ago goes.
MOST_VIEWS: Final = 32
#: How long a repeated settle of a job that is gone is known.
REMEMBERED: Final = timedelta(minutes=10)


class StoredQueue:
    """The rows of one queue, in the order they were added.

    What an index knows of a row (its state, sort key, instants and retention) is changed between `leave` and
    `enter`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[str, Row] = {}
        self.states = States()
        #: Those that have live jobs; None is the group of the jobs without one.
        self.groups: dict[str | None, LiveGroup] = {}
        self.fair_share = FairShare(self.groups)
        self.delayed = Timeline()
        self.leases = Timeline()
        #: By (name, None), (None, group), and (None, None) for the whole queue.
        self.pauses: dict[tuple[str | None, str | None], datetime] = {}
        self.starts = Starts()
        self.group_starts = Starts()
        #: Outcomes of jobs that are gone, by id and token: the state asked for, and when the job went.
        self.tombstones: OrderedDict[tuple[str, str], tuple[JobState, datetime]] = OrderedDict()
        #: How many sub-queues and jobs claims have looked at so far.
        self.steps = 0
        self._holders: dict[str | None, Row] = {}
        self._views: dict[Shape, ClaimableView] = {}

    def add(self, row: Row) -> None:
        """Add a new row."""
        self.rows[row.id] = row
        if row.group is not None:
            self.fair_share.add_group(row.group)
        if row.holds_key:
            self.take_key(row)
        self.enter(row)

    def remove(self, row: Row, now: datetime) -> None:
        """Remove a row, and remember its last outcome if that is recent."""
        self.leave(row)
        self.drop_key(row)
        del self.rows[row.id]
        if row.settled is not None and row.settled[2] >= now - REMEMBERED:
            token, state, _ = row.settled
            self.tombstones[row.id, token] = (state, now)

    def enter(self, row: Row) -> None:
        """Put the row where its state says."""
        self.states.add(row)
        if row.state is WAITING:
            sub_queue = self._sub_queue(row)
            sub_queue.waiting.add((row.sort_key, tie_break(row), row))
            sub_queue.group.waiting += 1
            sub_queue.group.size += 1
            self._changed(sub_queue)
        elif row.state is DELAYED:
            sub_queue = self._sub_queue(row)
            sub_queue.delayed.add(row.run_at, row)
            self.delayed.add(row.run_at, row)
            sub_queue.group.size += 1
            self._changed(sub_queue)
        elif row.state is ACTIVE:
            self.leases.add(row.lease_until, row)
            group = self._group(row.group)
            group.active += 1
            self._busy(group)

    def leave(self, row: Row) -> None:
        """Take the row from where its state said."""
        self.states.remove(row)
        if row.state is WAITING:
            sub_queue = self._sub_queue(row)
            sub_queue.waiting.remove((row.sort_key, tie_break(row), row))
            sub_queue.group.waiting -= 1
            sub_queue.group.size -= 1
            self._changed(sub_queue)
        elif row.state is DELAYED:
            sub_queue = self._sub_queue(row)
            sub_queue.delayed.remove(row.run_at, row)
            self.delayed.remove(row.run_at, row)
            sub_queue.group.size -= 1
            self._changed(sub_queue)
        elif row.state is ACTIVE:
            self.leases.remove(row.lease_until, row)
            group = self._group(row.group)
            group.active -= 1
            self._busy(group)

    def holder(self, key: str, now: datetime) -> Row | None:
        """The job that holds the key now."""
        row = self._holders.get(key)
        return row if row is not None and row.holds(now) else None

    def take_key(self, row: Row) -> None:
        """Make the row the holder of its key, which nobody holds now."""
        self.drop_key(self._holders.get(row.unique_key))
        row.holds_key = True
        self._holders[row.unique_key] = row

    def drop_key(self, row: Row | None) -> None:
        """Have the row hold no key."""
        if row is not None and row.holds_key:
            row.holds_key = False
            del self._holders[row.unique_key]

    @property
    def sub_queues(self) -> Iterator[SubQueue]:
        """Every sub-queue that has jobs."""
        return (sub_queue for group in self.groups.values() for sub_queue in group.sub_queues.values())

    def in_order(
        self, state: JobState, order: Order, after: JobRecord | None, group: str | None
    ) -> Iterable[Row]:
        """The rows of a state in that order, behind a job; of any group if that is None."""
        match order:
            case Order.ADDED:
                return self.states.added(state, after)
            case Order.NEWEST:
                return self.states.newest(state, after)
            case Order.FINISHED:
                return self.states.latest(state, after)
            case Order.EARLIEST:
                return self.states.earliest(state, after)
        if state is WAITING:
            return self._by_urgency(after, group)
        key = ORDERS[order]
        rows = sorted(self.states.added(state, None), key=key)
        return rows if after is None else [row for row in rows if key(row) > key(after)]

    def _by_urgency(self, after: JobRecord | None, group: str | None) -> Iterator[Row]:
        """The waiting rows, most urgent first, behind a job."""
        groups = self.groups.values() if group is None else filter(None, [self.groups.get(group)])
        first = None if after is None else (after.sort_key, tie_break(after) + 1)
        found = [one.waiting.irange(first) for group_ in groups for one in group_.sub_queues.values()]
        return (row for _, _, row in merge(*found))

    def size(self, group: str | None) -> int:
        """How many waiting and delayed jobs a group has."""
        return self.groups[group].size if group in self.groups else 0

    def view(self, request: Claim, now: datetime) -> ClaimableView:
        """The sub-queues such a claim may take from."""
        shape = Shape(request.newest_first, request.names, request.group_limit)
        view = self._views.pop(shape, None) or ClaimableView(self, shape, now)
        self._views[shape] = view
        if len(self._views) > MOST_VIEWS:
            del self._views[next(iter(self._views))]
        return view

    def free_at(self, sub_queue: SubQueue, limit: Limit | None, now: datetime) -> datetime:
        """When pauses and the group limit let a job of the sub-queue be given: now, if they do."""
        group = sub_queue.group
        at = max(now, self.pauses.get((sub_queue.name, None), now))
        if group.name is None:
            return at
        at = max(at, self.pauses.get((None, group.name), now))
        if limit is not None and limit.active is not None and group.active >= limit.active:
            return FOREVER
        if limit is not None and limit.rate is not None:
            at = max(at, self.group_starts.free_at(group.name, limit.rate, now))
        return at

    def note_pick(self, name: str | None) -> None:
        """Note that a job of the group was picked, if picks are counted."""
        if self.fair_share.known:
            self.fair_share.note_pick(name)
            self._all_changed(self._group(name))

    def pause(self, what: Pause, until: datetime) -> None:
        """Let claims pass over what is paused, until then at least."""
        key = (what.name, what.group)
        self.pauses[key] = max(until, self.pauses.get(key, until))
        self._paused(what)

    def resume(self, what: Pause) -> None:
        """End a pause."""
        self.pauses.pop((what.name, what.group), None)
        self._paused(what)

    def tidy(self, now: datetime) -> None:
        """Forget what need not be remembered."""
        if self.fair_share.forget():
            self.fair_share = FairShare(self.groups)
            for group in self.groups.values():
                self._all_changed(group)
        self.starts.forget(now)
        self.group_starts.forget(now)
        for what in [what for what, until in self.pauses.items() if until <= now]:
            del self.pauses[what]
        for shape in [shape for shape, view in self._views.items() if view.outdated]:
            del self._views[shape]
        while self.tombstones:
            oldest = next(iter(self.tombstones))
            if self.tombstones[oldest][1] >= now - REMEMBERED:
                break
            del self.tombstones[oldest]

    def _group(self, name: str | None) -> LiveGroup:
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = LiveGroup(name)
        return group

    def _sub_queue(self, row: Row) -> SubQueue:
        group = self._group(row.group)
        sub_queue = group.sub_queues.get(row.name)
        if sub_queue is None:
            sub_queue = group.sub_queues[row.name] = SubQueue(group, row.name)
        return sub_queue

    def _changed(self, sub_queue: SubQueue) -> None:
        if not sub_queue.waiting and not sub_queue.delayed:
            del sub_queue.group.sub_queues[sub_queue.name]
        self._note(sub_queue)
        self._live(sub_queue.group)

    def _busy(self, group: LiveGroup) -> None:
        if group.name is not None:
            self._all_changed(group)
        self._live(group)

    def _live(self, group: LiveGroup) -> None:
        if not group.size and not group.active:
            del self.groups[group.name]
        self.fair_share.change(group.name)

    def _paused(self, what: Pause) -> None:
        if what.group in self.groups and what.group is not None:
            self._all_changed(self.groups[what.group])
        for sub_queue in self.sub_queues if what.name is not None else ():
            if sub_queue.name == what.name:
                self._note(sub_queue)

    def _all_changed(self, group: LiveGroup) -> None:
        for sub_queue in group.sub_queues.values():
            self._note(sub_queue)

    def _note(self, sub_queue: SubQueue) -> None:
        for view in self._views.values():
            view.changed.add(sub_queue)
