"""The jobs that one step moves: read once, changed as the rules say, written back together.

A step runs while nobody else can write, so what it read stays true until it has written. All rules about
a job's life that do not depend on who asks are here; `settling`, `changing` and `removing` ask.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from sqlite3 import Connection
from typing import Any, Final

from conveyor.core.store import TERMINAL, JobKey, JobState, Release, Retention
from conveyor.store.sqlite.rows import MICROSECOND, read_or, written
from conveyor.store.sqlite.statements import ask, fetch, run, text, write

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


@dataclass(slots=True, eq=False)
class Entry:
    """What a step knows of a job; in the order of `sql/entries.sql`. Instants and durations are as stored."""

    seq: int
    queue: str
    id: str
    state: str
    token: str | None
    attempt: int
    cancel_requested: int
    priority: int
    rank: int
    run_at: str | None
    delay: int | None
    pending: int
    released: int
    parent_queue: str | None
    parent_id: str | None
    unique_key: str | None
    unique_for: int | None
    unique_until: str | None
    holds_key: int
    finished_at: str | None
    expires_at: str | None
    keep_count: int | None
    settled_token: str | None
    settled_state: str | None
    settled_at: str | None
    #: What to write instead of the documents that are there; they are not read.
    report: str | None = None
    payload: str | None = None
    #: Whether the job begins again, as if it had never run.
    anew: bool = False
    #: How many stalls to add.
    stalls: int = 0
    #: Whether more than its place in life has changed.
    altered: bool = False

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

    def holds(self, now: str) -> bool:
        """Whether the job is the holder of its unique key at that moment."""
        return bool(self.holds_key) and (self.unique_until is None or self.unique_until > now)

    def saved(self) -> tuple[Any, ...]:
        """The values of `sql/save.sql`."""
        return (
            self.seq,
            self.state,
            self.attempt,
            self.cancel_requested,
            self.run_at,
            self.delay,
            self.pending,
            self.released,
            self.holds_key,
            self.finished_at,
            self.expires_at,
            self.keep_count,
            self.settled_token,
            self.settled_state,
            self.settled_at,
            self.report,
            self.stalls,
        )

    def as_altered(self) -> tuple[Any, ...]:
        """The values of `sql/alter.sql`."""
        return (self.seq, self.priority, self.rank, self.payload, self.anew)


class Ledger:
    """The jobs of one step, at one moment."""

    def __init__(self, db: Connection, now: datetime) -> None:
        """Begin with no jobs."""
        self._db = db
        self.instant = now
        self.now = written(now)
        self._entries: dict[Key, Entry | None] = {}
        self._changed: dict[int, Entry] = {}
        self._gone: dict[int, Entry] = {}
        self._reopened: set[Key] = set()
        self._holders: dict[tuple[str, str], Entry | None] = {}

    # ---------------------------------------------------------------- reading and writing

    def load(self, keys: Collection[Key]) -> None:
        """Read jobs by identity, those that have not been read yet."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self._entries]
        if wanted:
            self._entries.update(dict.fromkeys(wanted))
            self._keep(ask(self._db, "entries", keys=text(wanted)))

    def load_rows(self, seqs: Sequence[int]) -> list[Entry]:
        """Read jobs by their numbers, and return them in that order."""
        self._keep(ask(self._db, "entries_by_seq", seqs=text(seqs)))
        by_seq = {entry.seq: entry for entry in self._entries.values() if entry is not None}
        return [by_seq[seq] for seq in seqs if seq in by_seq]

    def load_parents(self) -> None:
        """Read the parents of all that has been read, at once."""
        parents = {
            entry.parent for entry in self._entries.values() if entry is not None and not entry.released
        }
        self.load([parent for parent in parents if parent is not None])

    def get(self, key: Key) -> Entry | None:
        """The job with that identity, unless it does not exist."""
        if key not in self._entries:
            self.load([key])
        return self._entries[key]

    def change(self, entry: Entry) -> None:
        """Note that the job is to be written."""
        self._changed[entry.seq] = entry

    def flush(self) -> None:
        """Write what has changed, and forget what was read."""
        if self._gone:
            self._bury()
            run(self._db, "remove", seqs=text(list(self._gone)))
            self._gone.clear()
        if self._reopened:
            self._write()
            self._count_children()
        self._write()
        self._entries.clear()
        self._holders.clear()

    def _keep(self, rows: Iterable[Sequence[Any]]) -> None:
        for row in rows:
            self._entries[row[1], row[2]] = Entry(*row)

    def _write(self) -> None:
        # A key must be given up before another job of the same step takes it.
        for holding in (0, 1):
            write(self._db, "save", [e.saved() for e in self._changed.values() if e.holds_key == holding])
        write(self._db, "alter", [e.as_altered() for e in self._changed.values() if e.altered])
        for entry in self._changed.values():
            entry.stalls = 0
        self._changed.clear()

    def _bury(self) -> None:
        horizon = written(self.instant - REMEMBERED)
        graves = [
            (entry.queue, entry.id, entry.settled_token, entry.settled_state)
            for entry in self._gone.values()
            if entry.settled_at is not None and entry.settled_at > horizon
        ]
        if graves:
            run(self._db, "bury", graves=text(graves), now=self.now)

    # ---------------------------------------------------------------- from one state to another

    def wait(self, entry: Entry, run_at: str | None = None) -> None:
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

    def end(self, entry: Entry, state: str, release: Release, retention: Retention | None) -> JobKey | None:
        """Finish a job, and return its parent if that has nothing to wait for any more."""
        entry.state = state
        entry.finished_at = self.now
        entry.run_at = entry.delay = None
        entry.pending = 0
        entry.cancel_requested = 0
        if entry.unique_for is None or not entry.holds(self.now):
            entry.holds_key = 0
        self.change(entry)
        parent = self.release(entry, release)
        if retention is not None:
            self.retain(entry, retention)
            if entry.expires_at is not None and entry.expires_at <= self.now:
                self.remove(entry)
        return parent

    def retain(self, entry: Entry, retention: Retention) -> None:
        """Say until when a finished job is kept: at least while it holds its key."""
        entry.keep_count = retention.count
        entry.expires_at = None
        if retention.age is not None:
            entry.expires_at = written(read_or(entry.finished_at, self.instant) + retention.age)
            if entry.unique_until is not None and entry.holds(self.now):
                entry.expires_at = max(entry.expires_at, entry.unique_until)
        self.change(entry)

    def release(self, entry: Entry, how: Release) -> JobKey | None:
        """Have a child release its parent if it has not; return that if it waits for none now."""
        if entry.parent is None or entry.released:
            return None
        entry.released = 1
        self.change(entry)
        parent = self.get(entry.parent)
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

    def remove(self, entry: Entry) -> JobKey | None:
        """Let a job go, in whatever state; it releases its parent if it has not yet.

        Returns the parent if that has nothing to wait for any more.
        """
        parent = self.release(entry, Release.ONE)
        self._changed.pop(entry.seq, None)
        self._gone[entry.seq] = entry
        self._entries[entry.queue, entry.id] = None
        return parent

    def is_gone(self, entry: Entry) -> bool:
        """Whether this step has let the job go."""
        return entry.seq in self._gone

    def retry(self, entry: Entry) -> bool:
        """Take a finished job back to waiting, unless another job holds its key."""
        if entry.state not in ENDED or not self._take_key_again(entry):
            return False
        self._begin_again(entry)
        self.wait(entry)
        self._take_back_release(entry)
        return True

    def after(self, delay: timedelta) -> str:
        """The instant that long from now."""
        return written(self.instant + delay)

    def _begin_again(self, entry: Entry) -> None:
        entry.anew = entry.altered = True
        entry.attempt = entry.cancel_requested = 0
        entry.finished_at = entry.expires_at = entry.keep_count = None

    def _take_back_release(self, entry: Entry) -> None:
        """Have the parent wait for a child that had released it, if it has not run since."""
        if entry.parent is None or not entry.released:
            return
        parent = self.get(entry.parent)
        if parent is None or parent.state not in {WAITING, WAITING_CHILDREN, FAILED}:
            return
        entry.released = 0
        self.change(entry)
        reopened = parent.state == FAILED
        if reopened:
            self._take_key_again(parent)
            self._begin_again(parent)
        self.wait_for_children(parent, max(parent.pending, 1))
        self._reopened.add((parent.queue, parent.id))
        if reopened:
            self._take_back_release(parent)

    def _count_children(self) -> None:
        """Say how many children the reopened parents wait for, when it is written who has released them."""
        for key in self._reopened:
            parent = self.get(key)
            if parent is not None and parent.state == WAITING_CHILDREN:
                found = fetch(self._db, "unreleased", queue=key[0], id=key[1])
                parent.pending = found[0]
                self.change(parent)
        self._reopened.clear()

    def _take_key_again(self, entry: Entry) -> bool:
        """Have the job hold its key as before it ended; say no if another job does."""
        if entry.unique_key is None or entry.unique_for is not None or entry.holds_key:
            return True
        if self._holder(entry.queue, entry.unique_key) is not None:
            return False
        entry.holds_key = 1
        self._holders[entry.queue, entry.unique_key] = entry
        return True

    def _holder(self, queue: str, key: str) -> Entry | None:
        """The job that holds the key now, as far as this step has come."""
        if (queue, key) not in self._holders:
            row = fetch(self._db, "holder", queue=queue, key=key)
            self._holders[queue, key] = None if row is None else self.get((queue, row[0]))
        holder = self._holders[queue, key]
        if holder is None or holder.holds(self.now):
            return holder
        if holder.holds_key:
            holder.holds_key = 0
            self.change(holder)
        return None
