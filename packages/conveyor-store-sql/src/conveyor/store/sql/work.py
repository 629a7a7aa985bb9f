"""The jobs that one step moves: read once, changed as the rules say, written back together."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

from conveyor.core.store import TERMINAL, JobKey, JobState, Outcome, Release, transitions
from conveyor.store.sql.jobs import REMEMBERED, JobTable, Key, Row

_REWRITTEN: Final = frozenset({"priority", "sort_key", "payload", "processed_at"})


class UnitOfWork:
    """The jobs of one step, at one moment.

    Reading a job keeps others from moving it, so what a step has read stays true until it has written. What
    is changed is written by `done`, the last thing that a step does.
    """

    def __init__(self, table: JobTable, now: datetime) -> None:
        """Begin with no jobs."""
        self.table = table
        self.now = now
        self._rows: dict[Key, Row | None] = {}
        self._dirty: dict[int, Row] = {}
        self._removed: dict[int, Row] = {}
        self._reopened: set[Key] = set()
        self._holders: dict[tuple[str, str], Row | None] = {}

    def on_transition(self, row: Row, after: JobState | None) -> None:
        """Take note that a job was written; no state after: it is gone. For stores that count jobs."""

    # ---------------------------------------------------------------- reading and writing

    async def load(self, keys: Collection[Key]) -> None:
        """Read jobs by identity, those that have not been read yet."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self._rows]
        if wanted:
            self._rows.update(dict.fromkeys(wanted))
            self.keep(await self.table.read(wanted))

    async def load_parents(self) -> None:
        """Read the parents of all that has been read, at once."""
        rows = self._rows.values()
        parents = {row.parent for row in rows if row is not None and not row.released}
        await self.load([parent for parent in parents if parent is not None])

    def keep(self, rows: Iterable[Row]) -> None:
        """Take in jobs as they were read."""
        for row in rows:
            row.before = row.state
            self._rows[row.queue, row.id] = row

    async def get(self, key: Key) -> Row | None:
        """The job with that identity, unless it does not exist."""
        if key not in self._rows:
            await self.load([key])
        return self._rows[key]

    def put(self, row: Row, fields: transitions.Fields) -> None:
        """Change these fields of a job, by which it moves from one state to another, and have it written."""
        for name, value in fields.items():
            setattr(row, name, value)
        self._dirty[row.seq] = row

    def change(self, row: Row, fields: transitions.Fields) -> None:
        """Change any fields of a job, and have it written."""
        self.put(row, fields)
        if not _REWRITTEN.isdisjoint(fields):
            row.rewritten = True
            row.reset |= "processed_at" in fields

    async def done(self) -> None:
        """Write what has changed: the last thing that a step does."""
        await self.flush()

    async def flush(self) -> None:
        """Write what has changed, and forget what was read."""
        if self._removed:
            await self._remove()
        if self._reopened:
            await self._write()
            await self._count_children()
        await self._write()
        self._rows.clear()
        self._holders.clear()

    async def _write(self) -> None:
        rows = self._dirty.values()
        # A key must be given up before another job of the same step takes it.
        for holding in (False, True):
            if some := [row for row in rows if bool(row.holds_key) is holding]:
                await self.table.save(some)
        if some := [row for row in rows if row.rewritten]:
            await self.table.rewrite(some)
        for row in rows:
            self.on_transition(row, row.state)
            row.before = row.state
        self._dirty.clear()

    async def _remove(self) -> None:
        rows = [*self._removed.values()]
        horizon = self.now - REMEMBERED
        recent = [row for row in rows if row.settled_at is not None and row.settled_at > horizon]
        if recent:
            await self.table.write_tombstones(recent, self.now)
        await self.table.remove(rows)
        for row in rows:
            self.on_transition(row, None)
        self._removed.clear()

    # ---------------------------------------------------------------- from one state to another

    async def settle(self, row: Row, outcome: Outcome) -> JobKey | None:
        """Apply an outcome, and return the parent if that has nothing to wait for any more."""
        self.put(row, transitions.settled(row, outcome, self.now))
        row.settled_token = outcome.lease.token
        row.settled_state = outcome.state.value
        row.settled_at = self.now
        if row.state not in TERMINAL:
            return None
        parent = None if row.parent is None else await self.release(row, outcome.release)
        if outcome.retention is not None and transitions.due_for_removal(row, self.now):
            await self.remove(row)
        return parent

    async def release(self, row: Row, how: Release) -> JobKey | None:
        """Have a child release its parent if it has not; return that if it waits for none now."""
        if row.parent is None or row.released:
            return None
        row.released = True
        self._dirty[row.seq] = row
        parent = await self.get(row.parent)
        if parent is None or not parent.pending:
            return None
        fields = transitions.released(parent, how, self.now)
        self.put(parent, fields)
        return parent.key if "state" in fields else None

    async def remove(self, row: Row) -> JobKey | None:
        """Remove a job, in whatever state; it releases its parent if it has not yet.

        Returns the parent if that has nothing to wait for any more.
        """
        parent = await self.release(row, Release.ONE)
        self._dirty.pop(row.seq, None)
        self._removed[row.seq] = row
        self._rows[row.queue, row.id] = None
        return parent

    def is_removed(self, row: Row) -> bool:
        """Whether this step removes the job."""
        return row.seq in self._removed

    async def retry(self, row: Row) -> bool:
        """Take a finished job back to waiting, unless another job holds its key."""
        if row.state not in TERMINAL:
            return False
        takes_key = transitions.takes_key_again(row)
        if takes_key and not await self._take_key(row):
            return False
        self.change(row, transitions.retried(row, self.now))
        await self._take_back_release(row)
        return True

    async def _take_back_release(self, row: Row) -> None:
        """Have the parent wait for a child that had released it, if it has not run since."""
        if row.parent is None or not row.released:
            return
        parent = await self.get(row.parent)
        if parent is None or not transitions.reopens(parent):
            return
        row.released = False
        self._dirty[row.seq] = row
        failed = parent.state is JobState.FAILED
        takes_key = failed and transitions.takes_key_again(parent) and await self._take_key(parent)
        self.change(parent, transitions.reopened(parent, max(parent.pending, 1), takes_key=takes_key))
        self._reopened.add((parent.queue, parent.id))
        if failed:
            await self._take_back_release(parent)

    async def _count_children(self) -> None:
        """Say how many children the reopened parents wait for, now that it is written who released them."""
        for key in self._reopened:
            parent = await self.get(key)
            if parent is not None and parent.state is JobState.WAITING_CHILDREN:
                parent.pending = await self.table.count_unreleased(key)
                self._dirty[parent.seq] = parent
        self._reopened.clear()

    async def _take_key(self, row: Row) -> bool:
        """Let a job be the holder of its key, as far as this step goes; say no if another job is."""
        if row.unique_key is None or await self._holder(row.queue, row.unique_key) is not None:
            return False
        self._holders[row.queue, row.unique_key] = row
        return True

    async def _holder(self, queue: str, unique_key: str) -> Row | None:
        """The job that holds the key now, as far as this step has come."""
        known = (queue, unique_key)
        if known not in self._holders:
            id = await self.table.holder(queue, unique_key)
            self._holders[known] = None if id is None else await self.get((queue, id))
        holder = self._holders[known]
        if holder is None or transitions.holds_key(holder, self.now):
            return holder
        if holder.holds_key:
            holder.holds_key = False
            self._dirty[holder.seq] = holder
        return None
