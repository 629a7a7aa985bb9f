"""Fair share on this store: the sub-queues that a claim of a queue with groups may pick from next.

They are read by pages, in the order in which they are picked from (see `conveyor.store.sql.FairShare`).
Nobody else writes meanwhile, so what is read later is of the same moment. Sub-queues that must be passed over
are not read at all: those of paused groups are in no index, and those of groups with too many active jobs, or
that are throttled, are of other classes than the ones asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from sqlite3 import Connection
from typing import Any

from conveyor.core.store import Claim
from conveyor.store.sql import FairShare, Picks, Scope, SubQueue, rate_name, rate_of, run_now, windows
from conveyor.store.sqlite.candidates import START, Names, before_stalled, jobs_after, ungrouped
from conveyor.store.sqlite.limits import Starts
from conveyor.store.sqlite.rows import written
from conveyor.store.sqlite.statements import ask, run, text


def pick_by_fair_share(
    db: Connection, now: datetime, request: Claim, names: Names, *, count: int, picks: Picks
) -> tuple[Sequence[tuple[int, str | None]], bool]:
    """Pick up to `count` jobs by fair share, each returned with its group, and note the picks.

    Says, too, whether one that has stalled before ended them.
    """
    run(db, "end_group_pauses", queue=request.queue, now=written(now))
    share = FairShare(request, now, count=count, picks=picks)
    reader = _Reader(db, now, request, names, share)
    while (more := share.pick()) is not None:
        if more.of is None:
            reader.read_page()
        else:
            reader.read_jobs(more.of)
    most = before_stalled(db, request, [seq for seq, _ in share.picked])
    kept = share.picked if most is None else share.picked[:most]
    _note(db, request, share, picks, [group for _, group in kept])
    return kept, most is not None


def _note(
    db: Connection, request: Claim, share: FairShare, picks: Picks, groups: Sequence[str | None]
) -> None:
    """Note from which groups jobs were picked, and which to pass over for a while."""
    if groups and picks.counted:
        latest, ungrouped_at, served = picks.after(groups)
        run(db, "mark_groups_served", queue=request.queue, groups=text(list(served.items())))
        run(db, "save_picks", queue=request.queue, picks=latest, ungrouped_last_served=ungrouped_at)
    rate = rate_of(request.group_limit)
    full = share.throttled(groups)
    if rate is not None and full:
        until = text([(group, written(until)) for group, until in full.items()])
        run(db, "throttle_groups", queue=request.queue, rate=rate_name(rate), groups=until)


@dataclass(slots=True, eq=False)
class _Stream:
    """Sub-queues in order, read by pages: those whose group has been served, or those whose group has not."""

    statement: str
    classes: list[Sequence[Any]]
    #: All sub-queues before this have been read; None: all there are.
    read_to: tuple[int, int] | None = START
    seen: set[tuple[str, str]] = field(default_factory=set)

    @property
    def bound(self) -> tuple[int, int, int] | None:
        """The most urgent that a sub-queue which has not been read can be; None: there is none."""
        if self.read_to is None or not self.classes:
            return None
        sort_key, second = self.read_to
        return (sort_key, second, START[1]) if self.statement == "subqueues_served" else (sort_key, 0, second)


class _Reader:
    """Reads for one claim what its picks are made from."""

    def __init__(
        self,
        db: Connection,
        now: datetime,
        request: Claim,
        names: Names,
        share: FairShare,
    ) -> None:
        self._db = db
        self._request = request
        self._queue = request.queue
        self._names = names
        self._share = share
        self._now = now
        self._limit = request.group_limit
        self._rate = rate_of(request.group_limit)
        self._streams = self._open_streams()
        jobs = ungrouped(db, request, names, share.count)
        if jobs:
            share.add(SubQueue(None, "", deque(jobs), jobs[-1], ended=True))
        self._move_beyond()

    def _open_streams(self) -> list[_Stream]:
        if self._rate is not None:
            if self._rate.max < 1:
                return []
            latest = written(self._now + self._rate.per)
            run(self._db, "unthrottle_groups", queue=self._queue, now=written(self._now), latest=latest)
        never_served = (
            "subqueues_never_served_newest" if self._request.newest_first else "subqueues_never_served"
        )
        return [
            _Stream(never_served, self._classes("subqueue_classes_never_served")),
            _Stream("subqueues_served", self._classes("subqueue_classes_served")),
        ]

    def _classes(self, statement: str) -> list[Sequence[Any]]:
        """The classes of sub-queues that this claim may take from, as the statement knows them."""
        most = None if self._limit is None else self._limit.active
        throttled = None if self._rate is None else rate_name(self._rate)
        return [
            (name, throttled_for, active)
            for name, throttled_for, active in ask(self._db, statement, queue=self._queue)
            if (self._names is None or name in self._names)
            and throttled_for != throttled
            and (most is None or active < most)
        ]

    def _move_beyond(self) -> None:
        bounds = [bound for stream in self._streams if (bound := stream.bound) is not None]
        self._share.beyond = min(bounds, default=None)

    def read_page(self) -> None:
        """Read the next sub-queues of the stream that may have the most urgent one, with their windows."""
        stream = next(stream for stream in self._streams if stream.bound == self._share.beyond)
        sort_key, second = stream.read_to or START
        # The sub-queues of one group were served at once, so a page may end between them: the next one
        # begins there, and is larger than they can be.
        count = self._share.count + len(stream.classes)
        rows = ask(
            self._db,
            stream.statement,
            queue=self._queue,
            classes=text(stream.classes),
            sort_key=sort_key,
            second=second,
            count=count,
        )
        stream.read_to = None if len(rows) < count else (rows[-1][0], rows[-1][1])
        self._move_beyond()
        new = [row for row in rows if (row[2], row[3]) not in stream.seen]
        stream.seen.update((row[2], row[3]) for row in new)
        if self._rate is not None:
            known = self._share.windows
            groups = {row[2] for row in new} - known.keys()
            scope = Scope(self._queue, "group")
            known.update(run_now(windows(Starts(self._db), scope, groups, self._rate, self._now)))
        for sort_key, _, group, name, active, tie_break, newest, last_served in new:
            head = (sort_key, newest if self._request.newest_first else tie_break)
            self._share.add(
                SubQueue(group, name, deque([head]), head, ended=False),
                active=active,
                last_served=last_served,
            )

    def read_jobs(self, subqueue: SubQueue) -> None:
        """Read what comes next in a sub-queue, of which all that was read has been picked."""
        wanted = self._share.count - len(self._share.picked)
        jobs = jobs_after(
            self._db,
            "grouped",
            {"queue": self._queue, "group": subqueue.group, "name": subqueue.name},
            subqueue.last,
            wanted,
            newest=self._request.newest_first,
        )
        subqueue.ended = len(jobs) < wanted
        if jobs:
            subqueue.jobs.extend(jobs)
            subqueue.last = jobs[-1]
            self._share.put(subqueue)
