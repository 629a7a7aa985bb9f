"""The jobs that one step moves: read once, changed as the rules say, written back together.

Reading a job locks its row, so what a step read stays true until it has written. All rules about a job's
life that do not depend on who asks are here; `settling` and `sets` ask.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from conveyor.core.store import TERMINAL, JobKey, JobState, Release, Retention
from conveyor.store.pg.groups import Move, moved
from conveyor.store.pg.rows import MICROSECOND, instant
from conveyor.store.pg.statements import Row, Session

#: A job's identity: a `JobKey`, or as much without its name.
Key = tuple[str, str]
#: How long a repeated settle of a job that is gone is known.
REMEMBERED: Final = timedelta(minutes=10)
WAITING: Final = JobState.WAITING.value
DELAYED: Final = JobState.DELAYED.value
ACTIVE: Final = JobState.ACTIVE.value
WAITING_CHILDREN: Final = JobState.WAITING_CHILDREN.value
FAILED: Final = JobState.FAILED.value
ENDED: Final = frozenset(state.value for state in TERMINAL)


#: What `sql/save.sql` writes of a job, and `sql/alter.sql`.
_SAVED: Final = (
    "seq",
    "state",
    "attempt",
    "cancel_requested",
    "run_at",
    "delay",
    "pending",
    "released",
    "holds_key",
    "finished_at",
    "expires_at",
    "keep_count",
    "settled_token",
    "settled_state",
    "settled_at",
    "report",
    "stalls",
)
_ALTERED: Final = ("seq", "priority", "rank", "payload", "anew")


@dataclass(slots=True, eq=False)
class Entry:
    """What a step knows of a job; in the order of `sql/entries.sql`. Durations are as stored."""

    seq: int
    queue: str
    id: str
    name: str
    group: str | None
    state: str
    token: str | None
    attempt: int
    cancel_requested: bool
    priority: int
    rank: float
    run_at: datetime | None
    delay: int | None
    pending: int
    released: bool
    parent_queue: str | None
    parent_id: str | None
    unique_key: str | None
    unique_for: int | None
    unique_until: datetime | None
    holds_key: bool
    finished_at: datetime | None
    expires_at: datetime | None
    keep_count: int | None
    settled_token: str | None
    settled_state: str | None
    settled_at: datetime | None
    #: The state that is stored.
    before: str = ""
    #: What to write instead of the documents that are there; they are not read.
    report: str | None = None
    payload: str | None = None
    #: Whether the job begins again, as if it had never run.
    anew: bool = False
    #: How many stalls to add.
    stalls: int = 0
    #: Whether more than its place in life has changed.
    altered: bool = False

    @classmethod
    def of(cls, row: Row) -> Entry:
        """The entry of a row."""
        entry = cls(*row)
        entry.before = entry.state
        for name in _INSTANTS:
            setattr(entry, name, instant(getattr(entry, name)))
        return entry

    @property
    def key(self) -> JobKey:
        """The job's identity."""
        return JobKey(self.queue, self.id)

    @property
    def parent(self) -> Key | None:
        """The parent's identity, if it has one."""
        if self.parent_queue is None or self.parent_id is None:
            return None
        return self.parent_queue, self.parent_id

    def holds(self, now: datetime) -> bool:
        """Whether the job is the holder of its unique key at that moment."""
        return self.holds_key and (self.unique_until is None or self.unique_until > now)

    def moved(self, after: str | None) -> Move | None:
        """How the job has moved within its group, if it is in one and has."""
        if self.group is None or (self.before == after and not self.altered):
            return None
        return Move(self.queue, self.group, self.name, self.before, after)


_INSTANTS: Final = ("run_at", "unique_until", "finished_at", "expires_at", "settled_at")


class Ledger:
    """The jobs of one step, at one moment."""

    def __init__(self, session: Session, now: datetime) -> None:
        """Begin with no jobs."""
        self._session = session
        self.now = now
        self._entries: dict[Key, Entry | None] = {}
        self._changed: dict[int, Entry] = {}
        self._gone: dict[int, Entry] = {}
        self._reopened: set[Key] = set()
        self._holders: dict[tuple[str, str], Entry | None] = {}
        self._moves: list[Move] = []

    # ---------------------------------------------------------------- reading and writing

    async def load(self, keys: Collection[Key]) -> None:
        """Read jobs by identity, those that have not been read yet."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self._entries]
        if wanted:
            self._entries.update(dict.fromkeys(wanted))
            queues, ids = [queue for queue, _ in wanted], [id for _, id in wanted]
            self.keep(await self._session.ask("entries", queues=queues, ids=ids))

    async def load_parents(self) -> None:
        """Read the parents of all that has been read, at once."""
        parents = {
            entry.parent for entry in self._entries.values() if entry is not None and not entry.released
        }
        await self.load([parent for parent in parents if parent is not None])

    def keep(self, rows: Iterable[Row]) -> list[Entry]:
        """Take in jobs as they were read, and return them."""
        entries = [Entry.of(row) for row in rows]
        self._entries.update({(entry.queue, entry.id): entry for entry in entries})
        return entries

    async def get(self, key: Key) -> Entry | None:
        """The job with that identity, unless it does not exist."""
        if key not in self._entries:
            await self.load([key])
        return self._entries[key]

    def change(self, entry: Entry) -> None:
        """Note that the job is to be written."""
        self._changed[entry.seq] = entry

    def tell(self, moves: Iterable[Move]) -> None:
        """Have the groups told of these moves as well, when the step is done."""
        self._moves += moves

    async def done(self) -> None:
        """Write what has changed, and tell the groups of all that has moved: the last thing a step does.

        Groups are locked by one statement, in order, after all jobs: else two steps wait for each other.
        """
        await self.flush()
        if self._moves:
            await moved(self._session, self._moves)

    async def flush(self) -> None:
        """Write what has changed, and forget what was read."""
        if self._gone:
            await self._bury()
            await self._session.run("remove", seqs=list(self._gone))
            self._note(self._gone.values(), gone=True)
            self._gone.clear()
        if self._reopened:
            await self._write()
            await self._count_children()
        await self._write()
        self._entries.clear()
        self._holders.clear()

    async def _write(self) -> None:
        # A key must be given up before another job of the same step takes it.
        changed = self._changed.values()
        for holding in (False, True):
            await self._put("save", _SAVED, [entry for entry in changed if entry.holds_key is holding])
        await self._put("alter", _ALTERED, [entry for entry in changed if entry.altered])
        self._note(changed)
        for entry in changed:
            entry.stalls = 0
        self._changed.clear()

    async def _put(self, statement: str, columns: Sequence[str], entries: Sequence[Entry]) -> None:
        if entries:
            values: dict[str, list[Any]] = {
                column: [getattr(entry, column) for entry in entries] for column in columns
            }
            await self._session.run(statement, **values)

    def _note(self, entries: Iterable[Entry], *, gone: bool = False) -> None:
        for entry in entries:
            after = None if gone else entry.state
            move = entry.moved(after)
            if move is not None:
                self._moves.append(move)
            entry.before = entry.state

    async def _bury(self) -> None:
        horizon = self.now - REMEMBERED
        graves = [
            entry
            for entry in self._gone.values()
            if entry.settled_at is not None and entry.settled_at > horizon
        ]
        if graves:
            await self._session.run(
                "bury",
                queues=[entry.queue for entry in graves],
                ids=[entry.id for entry in graves],
                tokens=[entry.settled_token for entry in graves],
                states=[entry.settled_state for entry in graves],
                now=self.now,
            )

    # ---------------------------------------------------------------- from one state to another

    def wait(self, entry: Entry, run_at: datetime | None = None) -> None:
        """Have a job run at that time, at once if it is over."""
        later = run_at is not None and run_at > self.now
        entry.state = DELAYED if later else WAITING
        entry.run_at = run_at if later else None
        entry.delay = None
        self.change(entry)

    def go_back(self, entry: Entry) -> None:
        """Undo a claim: the job returns to where it was."""
        if entry.pending:
            self.wait_for_children(entry, entry.pending)
        else:
            self.wait(entry, entry.run_at)

    def wait_for_children(self, entry: Entry, pending: int) -> None:
        """Have a job wait for that many children."""
        entry.state = WAITING_CHILDREN
        entry.pending = pending
        self.change(entry)

    async def end(
        self, entry: Entry, state: str, release: Release, retention: Retention | None
    ) -> JobKey | None:
        """Finish a job, and return its parent if that has nothing to wait for any more."""
        entry.state = state
        entry.finished_at = self.now
        entry.run_at = entry.delay = None
        entry.pending = 0
        entry.cancel_requested = False
        if entry.unique_for is None or not entry.holds(self.now):
            entry.holds_key = False
        self.change(entry)
        parent = await self.release(entry, release)
        if retention is not None:
            self.retain(entry, retention)
            if entry.expires_at is not None and entry.expires_at <= self.now:
                await self.remove(entry)
        return parent

    def retain(self, entry: Entry, retention: Retention) -> None:
        """Say until when a finished job is kept: at least while it holds its key."""
        entry.keep_count = retention.count
        entry.expires_at = None
        if retention.age is not None:
            entry.expires_at = (entry.finished_at or self.now) + retention.age
            if entry.unique_until is not None and entry.holds(self.now):
                entry.expires_at = max(entry.expires_at, entry.unique_until)
        self.change(entry)

    async def release(self, entry: Entry, how: Release) -> JobKey | None:
        """Have a child release its parent if it has not; return that if it waits for none now."""
        if entry.parent is None or entry.released:
            return None
        entry.released = True
        self.change(entry)
        parent = await self.get(entry.parent)
        if parent is None or not parent.pending:
            return None
        parent.pending = parent.pending - 1 if how is Release.ONE else 0
        self.change(parent)
        if parent.pending:
            return None
        if parent.delay is not None:
            parent.run_at, parent.delay = self.after(parent.delay * MICROSECOND), None
        if parent.state != WAITING_CHILDREN:  # somebody claimed it by its id, and may give it back
            return None
        self.wait(parent, parent.run_at)
        return parent.key

    async def remove(self, entry: Entry) -> JobKey | None:
        """Let a job go, in whatever state; it releases its parent if it has not yet.

        Returns the parent if that has nothing to wait for any more.
        """
        parent = await self.release(entry, Release.ONE)
        self._changed.pop(entry.seq, None)
        self._gone[entry.seq] = entry
        self._entries[entry.queue, entry.id] = None
        return parent

    def is_gone(self, entry: Entry) -> bool:
        """Whether this step has let the job go."""
        return entry.seq in self._gone

    async def retry(self, entry: Entry) -> bool:
        """Take a finished job back to waiting, unless another job holds its key."""
        if entry.state not in ENDED or not await self._take_key_again(entry):
            return False
        self._begin_again(entry)
        self.wait(entry)
        await self._take_back_release(entry)
        return True

    def after(self, delay: timedelta) -> datetime:
        """The instant that long from now."""
        return self.now + delay

    def _begin_again(self, entry: Entry) -> None:
        entry.anew = entry.altered = True
        entry.attempt = 0
        entry.cancel_requested = False
        entry.finished_at = entry.expires_at = entry.keep_count = None

    async def _take_back_release(self, entry: Entry) -> None:
        """Have the parent wait for a child that had released it, if it has not run since."""
        if entry.parent is None or not entry.released:
            return
        parent = await self.get(entry.parent)
        if parent is None or parent.state not in {WAITING, WAITING_CHILDREN, FAILED}:
            return
        entry.released = False
        self.change(entry)
        reopened = parent.state == FAILED
        if reopened:
            await self._take_key_again(parent)
            self._begin_again(parent)
        self.wait_for_children(parent, max(parent.pending, 1))
        self._reopened.add((parent.queue, parent.id))
        if reopened:
            await self._take_back_release(parent)

    async def _count_children(self) -> None:
        """Say how many children the reopened parents wait for, when it is written who has released them."""
        for key in self._reopened:
            parent = await self.get(key)
            if parent is not None and parent.state == WAITING_CHILDREN:
                [(pending,)] = await self._session.ask("unreleased", queue=key[0], id=key[1])
                parent.pending = pending
                self.change(parent)
        self._reopened.clear()

    async def _take_key_again(self, entry: Entry) -> bool:
        """Have the job hold its key as before it ended; say no if another job does."""
        if entry.unique_key is None or entry.unique_for is not None or entry.holds_key:
            return True
        if await self._holder(entry.queue, entry.unique_key) is not None:
            return False
        entry.holds_key = True
        self._holders[entry.queue, entry.unique_key] = entry
        return True

    async def _holder(self, queue: str, key: str) -> Entry | None:
        """The job that holds the key now, as far as this step has come."""
        if (queue, key) not in self._holders:
            rows = await self._session.ask("holder", queue=queue, key=key)
            self._holders[queue, key] = await self.get((queue, rows[0][0])) if rows else None
        holder = self._holders[queue, key]
        if holder is None or holder.holds(self.now):
            return holder
        if holder.holds_key:
            holder.holds_key = False
            self.change(holder)
        return None
