"""The table of jobs, as a unit of work reads and writes it: reading a job locks its row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from conveyor.core.store import JobState, Lease
from conveyor.store import sql
from conveyor.store.pg.groups import Transition, record_transitions
from conveyor.store.pg.rows import instant, jsonb
from conveyor.store.pg.statements import Row, Session
from conveyor.store.sql import MICROSECOND, Key, known_state, microseconds


class UnitOfWork(sql.UnitOfWork):
    """The jobs of one step, and what their changes of state mean for their groups."""

    def __init__(self, session: Session, now: datetime) -> None:
        """Begin with no jobs."""
        super().__init__(Jobs(session), now)
        self._session = session
        self._transitions: list[Transition] = []

    def on_transition(self, row: sql.Row, after: JobState | None) -> None:
        """Remember what the groups are to know when the step is done."""
        if row.group is not None and row.before is not None and (row.before is not after or row.rewritten):
            after_text = None if after is None else after.value
            self._transitions.append(Transition(row.queue, row.group, row.name, row.before.value, after_text))

    def add_transitions(self, transitions: Iterable[Transition]) -> None:
        """Have these transitions counted as well, when the step is done."""
        self._transitions += transitions

    async def done(self) -> None:
        """Write what has changed, and count all changes of state for the groups.

        Groups are locked by one statement, in order, after all jobs: else two steps wait for each other.
        """
        await self.flush()
        if self._transitions:
            await record_transitions(self._session, self._transitions)


class Jobs:
    """The table of jobs, for a unit of work."""

    def __init__(self, session: Session) -> None:
        """Use a session in a transaction."""
        self._session = session

    async def read(self, keys: Collection[Key]) -> list[sql.Row]:
        """Those of these jobs that there are."""
        queues, ids = [queue for queue, _ in keys], [id for _, id in keys]
        return [row_of(row) for row in await self._session.ask("read_rows", queues=queues, ids=ids)]

    async def save(self, rows: Sequence[sql.Row]) -> None:
        """Write the state of these jobs, and what goes with it."""
        await self._session.run(
            "save_jobs",
            seq=[row.seq for row in rows],
            state=[row.state.value for row in rows],
            attempt=[row.attempt for row in rows],
            stalled=[row.stalled for row in rows],
            cancel_requested=[row.cancel_requested for row in rows],
            run_at=[row.run_at for row in rows],
            delay=[microseconds(row.delay) for row in rows],
            pending=[row.pending for row in rows],
            released=[row.released for row in rows],
            holds_key=[row.holds_key for row in rows],
            finished_at=[row.finished_at for row in rows],
            expires_at=[row.expires_at for row in rows],
            keep_count=[row.keep_count for row in rows],
            settled_token=[row.settled_token for row in rows],
            settled_state=[row.settled_state for row in rows],
            settled_at=[row.settled_at for row in rows],
            report=[row.report for row in rows],
        )

    async def rewrite(self, rows: Sequence[sql.Row]) -> None:
        """Write what only `Store.update` changes."""
        await self._session.run(
            "rewrite_jobs",
            seq=[row.seq for row in rows],
            priority=[row.priority for row in rows],
            sort_key=[row.sort_key for row in rows],
            payload=[None if row.payload is None else jsonb(row.payload) for row in rows],
            reset=[row.reset for row in rows],
        )

    async def remove(self, rows: Sequence[sql.Row]) -> None:
        """Remove these jobs."""
        await self._session.run("delete_jobs", seqs=[row.seq for row in rows])

    async def write_tombstones(self, rows: Sequence[sql.Row], now: datetime) -> None:
        """Remember what was settled last of these jobs."""
        await self._session.run(
            "write_tombstones",
            queues=[row.queue for row in rows],
            ids=[row.id for row in rows],
            tokens=[row.settled_token for row in rows],
            states=[row.settled_state for row in rows],
            now=now,
        )

    async def find_tombstones(self, leases: Collection[Lease]) -> set[tuple[Lease, str]]:
        """What was settled last of jobs that are gone."""
        found = await self._session.ask(
            "find_tombstones",
            queues=[lease.queue for lease in leases],
            ids=[lease.id for lease in leases],
            tokens=[lease.token for lease in leases],
        )
        return {(Lease(queue, id, token), state) for queue, id, token, state in found}

    async def holder(self, queue: str, unique_key: str) -> str | None:
        """The id of the job that is stored as the holder of a key."""
        found = await self._session.ask("find_key_holder", queue=queue, key=unique_key)
        return found[0][0] if found else None

    async def count_unreleased(self, parent: Key) -> int:
        """How many children of a parent have not released it."""
        [(count,)] = await self._session.ask("count_unreleased", queue=parent[0], id=parent[1])
        found: int = count
        return found


def row_of(row: Row) -> sql.Row:
    """What a step has to know of a job; of the columns of `read_rows.sql`."""
    (
        seq, queue, id, name, group, state, token, attempt, stalled, cancel_requested, priority,
        sort_key, run_at, delay, pending, released, parent_queue, parent_id, unique_key, unique_for,
        unique_until, holds_key, finished_at, expires_at, keep_count, settled_token, settled_state,
        settled_at,
    ) = row  # fmt: skip
    return sql.Row(
        seq,
        queue,
        id,
        name,
        group,
        known_state(state),
        token,
        attempt,
        stalled,
        cancel_requested,
        priority,
        sort_key,
        instant(run_at),
        None if delay is None else delay * MICROSECOND,
        pending,
        released,
        None if parent_id is None else (parent_queue, parent_id),
        unique_key,
        unique_for,
        instant(unique_until),
        holds_key,
        instant(finished_at),
        instant(expires_at),
        keep_count,
        settled_token,
        settled_state,
        instant(settled_at),
    )
