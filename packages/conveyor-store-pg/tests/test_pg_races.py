"""Many at once at the same few groups: what the tables say of them stays true, and no job waits for ever."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from conveyor.core.store import (
    Beat,
    Change,
    Claim,
    JobRecord,
    JobState,
    Limit,
    Outcome,
    Pause,
    Rate,
    Retention,
    Where,
)
from conveyor.store.pg import PgStore
from conveyor.store.pg.settling import renew
from conveyor.store.pg.statements import Statements, SyncSession

LEASE = timedelta(seconds=30)
GROUPS = ["a", "b", "c", "d"]
NAMES = ["x", "y"]
GROUP_ACTIVE = 3
QUEUE_ACTIVE = 8
#: Each claim that counts carries the same limits; those by ids pass them over, and are of another queue.
LIMITS = {
    "limit": Limit(active=QUEUE_ACTIVE),
    "group_limit": Limit(active=GROUP_ACTIVE, rate=Rate(max=50, per=timedelta(seconds=1))),
}
QUEUES = ["limited", "free"]
#: The steps that each racer takes, however slow the machine is.
LEAST = 8

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_races")]

#: What must hold at every commit; each returns the rows for which it does not.
TRUTHS = {
    "a group's counts": """
        select g.queue, g.grp, g.waiting, g.delayed, g.active, j.waiting, j.delayed, j.active
          from conveyor_groups g
          full join (
            select queue, grp,
              count(*) filter (where state = 'waiting') as waiting,
              count(*) filter (where state = 'delayed') as delayed,
              count(*) filter (where state = 'active') as active
              from conveyor_jobs where grp is not null and state in ('waiting', 'delayed', 'active')
             group by queue, grp
          ) j using (queue, grp)
         where (coalesce(g.waiting, 0), coalesce(g.delayed, 0), coalesce(g.active, 0))
           is distinct from (coalesce(j.waiting, 0), coalesce(j.delayed, 0), coalesce(j.active, 0))""",
    "the first jobs of sub-queues": """
        select queue, grp, name, l.sort_key, l.tie_break, h.sort_key, h.tie_break
          from conveyor_subqueues l
          full join (
            select distinct on (queue, grp, name) queue, grp, name, sort_key, tie_break
              from conveyor_jobs where grp is not null and state = 'waiting'
             order by queue, grp, name, sort_key, tie_break
          ) h using (queue, grp, name)
         where (l.sort_key, l.tie_break) is distinct from (h.sort_key, h.tie_break)""",
    "what sub-queues say of their group": """
        select l.queue, l.grp, l.name
          from conveyor_subqueues l
          left join conveyor_groups g using (queue, grp)
         where (l.active, l.last_served, l.paused, l.throttled_for) is distinct from
               (g.active, g.last_served, g.paused, g.throttled_for)""",
    "the limit of groups": f"""
        select queue, grp, count(*) from conveyor_jobs where queue = 'limited'
           and state = 'active' and grp is not null
         group by queue, grp having count(*) > {GROUP_ACTIVE}""",  # noqa: S608
    "the limit of the queue": f"""
        select count(*) from conveyor_jobs where queue = 'limited' and state = 'active'
        having count(*) > {QUEUE_ACTIVE}""",  # noqa: S608
}


@pytest.fixture
def url(empty_database: str) -> str:
    return empty_database


def lies(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """What does not hold, as of one moment."""
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        found = {name: connection.execute(truth.encode()).fetchall() for name, truth in TRUTHS.items()}
    return {name: rows for name, rows in found.items() if rows}


class Racer:
    """Does anything to the jobs of a few groups."""

    def __init__(self, store: PgStore, seed: int) -> None:
        self.store = store
        self.dice = random.Random(seed)
        self.done = 0

    async def race(self, until: float) -> None:
        steps = [self.add, self.add, self.claim, self.claim, self.claim_by_id, self.retry, self.delete]
        steps += [self.pause, self.advance, self.change]
        while time.time() < until or self.done < LEAST:
            await self.dice.choice(steps)(self.dice.choice(QUEUES))
            self.done += 1

    async def add(self, queue: str) -> None:
        await self.store.insert([self.job(queue) for _ in range(self.dice.randint(1, 6))])

    def job(self, queue: str) -> JobRecord:
        dice = self.dice
        return JobRecord(
            queue=queue,
            id=uuid4().hex,
            name=dice.choice(NAMES),
            group=dice.choice([None, *GROUPS]),
            priority=dice.randint(0, 2),
            lifo=dice.random() < 0.2,
            delay=timedelta(milliseconds=dice.randint(1, 300)) if dice.random() < 0.2 else None,
        )

    async def claim(self, queue: str) -> None:
        limits: dict[str, Any] = LIMITS if queue == "limited" else {}
        claim = self.request(queue, newest_first=self.dice.random() < 0.2, **limits)
        await self.settle((await self.store.claim(claim)).jobs)

    async def claim_by_id(self, queue: str) -> None:
        del queue  # a claim by ids passes over limits
        found = await self.store.find(Where(queue="free", states=frozenset({JobState.WAITING})), limit=6)
        if found:
            ids = [job.id for job in found]
            claimed = await self.store.take("free", ids, token=uuid4().hex, lease=timedelta(seconds=9))
            await self.settle(claimed.jobs)

    def request(self, queue: str, **fields: Any) -> Claim:
        return Claim(
            queue=queue,
            count=self.dice.randint(1, 5),
            token=uuid4().hex,
            lease=timedelta(milliseconds=self.dice.choice([50, 5_000])),
            worker="racer",
            **fields,
        )

    async def settle(self, jobs: Any) -> None:
        await asyncio.sleep(self.dice.random() * 0.02)
        now = timedelta(0)
        ends = [
            self.dice.choice(
                [
                    Outcome.completed(job, "{}", retention=Retention(age=now)),
                    Outcome.completed(job, "{}", spawn=tuple(self.job(job.queue) for _ in range(3))),
                    Outcome.retry(job, "{}", delay=self.dice.choice([now, timedelta(milliseconds=50)])),
                    Outcome.given_back(job),
                ]
            )
            for job in jobs
            if self.dice.random() < 0.9  # the others stall
        ]
        await self.store.settle(ends)

    async def retry(self, queue: str) -> None:
        ended = await self.store.find(Where(queue=queue, states=frozenset({JobState.COMPLETED})), limit=5)
        ids = frozenset(job.id for job in ended)
        await self.store.update(Where(queue=queue, ids=ids), Change(retry=True))

    async def delete(self, queue: str) -> None:
        await self.store.delete(Where(queue=queue, group=self.dice.choice(GROUPS)), limit=3)

    async def change(self, queue: str) -> None:
        change = self.dice.choice([Change(priority=self.dice.randint(0, 2)), Change(delay=timedelta(0))])
        await self.store.update(Where(queue=queue, group=self.dice.choice(GROUPS)), change)

    async def pause(self, queue: str) -> None:
        what = Pause(group=self.dice.choice(GROUPS))
        if self.dice.random() < 0.5:
            await self.store.pause(queue, what, timedelta(milliseconds=100))
        else:
            await self.store.resume(queue, what)

    async def advance(self, queue: str) -> None:
        del queue
        await self.store.advance(QUEUES)


async def race(url: str, seed: int, until: float, racers: int) -> int:
    async with PgStore(url, notify=False) as store:
        all_of_them = [Racer(store, seed + n) for n in range(racers)]
        await asyncio.gather(*(racer.race(until) for racer in all_of_them))
        return sum(racer.done for racer in all_of_them)


async def drain(url: str) -> None:
    """Whatever is left can be done: no job waits for ever."""
    async with PgStore(url, notify=False) as store:
        for queue in QUEUES:
            for group in GROUPS:
                await store.resume(queue, Pause(group=group))
        live = frozenset({JobState.WAITING, JobState.DELAYED, JobState.ACTIVE})
        until = time.time() + 60
        while any(found for found in (await store.count(Where(states=live))).values()):
            assert time.time() < until, await store.count(Where(states=live), by_group=True)
            await store.advance(QUEUES)
            took = 0
            for queue in QUEUES:
                limits: dict[str, Any] = {"limit": LIMITS["limit"], "group_limit": Limit(active=GROUP_ACTIVE)}
                request = Claim(
                    queue=queue,
                    count=50,
                    token=uuid4().hex,
                    lease=timedelta(seconds=5),
                    worker="drain",
                    **(limits if queue == "limited" else {}),
                )
                jobs = (await store.claim(request)).jobs
                took += len(jobs)
                await store.settle([Outcome.completed(job, "{}") for job in jobs])
            if not took:
                await asyncio.sleep(0.02)


async def watch(url: str, racing: asyncio.Future[Any]) -> list[dict[str, Any]]:
    """Look whether all is true, again and again, until the race is over."""

    def look() -> dict[str, Any]:
        with psycopg.connect(url, autocommit=True) as connection:
            return lies(connection)

    found: list[dict[str, Any]] = []
    while not racing.done() and not found:
        found += [seen for seen in [await asyncio.to_thread(look)] if seen]
        await asyncio.sleep(0.02)
    return found


def deadlocks(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select pg_stat_clear_snapshot()")
        row = connection.execute(
            "select deadlocks from pg_stat_database where datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


async def test_what_is_true_of_groups_stays_true(url: str) -> None:
    async with PgStore(url, notify=False):
        pass
    racing = asyncio.ensure_future(race(url, 1, time.time() + 2.5, 8))

    found = await watch(url, racing)

    steps = await racing
    assert found == []
    assert steps >= 8 * LEAST
    await drain(url)
    with psycopg.connect(url, autocommit=True) as connection:
        assert lies(connection) == {}
    assert deadlocks(url) == 0


#: The same from a process of its own.
OTHER = """
import asyncio, importlib.util, json, sys, time
spec = importlib.util.spec_from_file_location("races", sys.argv[1])
races = importlib.util.module_from_spec(spec)
sys.modules["races"] = races
spec.loader.exec_module(races)
print(json.dumps(asyncio.run(races.race(sys.argv[2], int(sys.argv[3]), time.time() + 20, 6))))
"""


@pytest.mark.chaos
async def test_what_is_true_of_groups_stays_true_among_processes(url: str) -> None:
    async with PgStore(url, notify=False):
        pass

    async def run(seed: int) -> int:
        command = [sys.executable, "-c", OTHER, str(Path(__file__)), url, str(seed)]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False, timeout=90
        )
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout))

    racing = asyncio.gather(*(run(100 * n) for n in range(1, 5)))
    found = await watch(url, racing)

    assert sum(await racing) > 50
    assert found == []
    await drain(url)
    with psycopg.connect(url, autocommit=True) as connection:
        assert lies(connection) == {}
    assert deadlocks(url) == 0


async def test_claims_by_ids_and_changes_of_the_same_jobs_do_not_wait_for_each_other(url: str) -> None:
    """The most urgent were added last here: whoever locks by urgency meets who locks by age."""
    ids = frozenset(f"{n}" for n in range(40))
    async with PgStore(url, notify=False) as store:
        await store.insert([JobRecord(queue="q", id=id, name="x", priority=-int(id)) for id in sorted(ids)])
        until = time.time() + 1

        async def claim() -> None:
            while time.time() < until:
                claimed = await store.take("q", ids, token=uuid4().hex, lease=timedelta(seconds=9))
                await store.settle([Outcome.given_back(job) for job in claimed.jobs])

        async def change() -> None:
            while time.time() < until:
                await store.update(Where(queue="q", ids=ids), Change(payload="{}"))

        await asyncio.gather(claim(), claim(), change(), change())

    assert deadlocks(url) == 0


async def waits_for_a_lock(connection: psycopg.Connection[Any]) -> None:
    """Return when somebody waits for a lock of this connection's transaction."""
    blocked = (
        "select count(*) from pg_locks where not granted and pg_backend_pid() = any(pg_blocking_pids(pid))"
    )
    while connection.execute(blocked).fetchone() == (0,):  # noqa: ASYNC110 - it is told by nobody
        await asyncio.sleep(0.01)


def end(record: JobRecord) -> Outcome:
    return Outcome.completed(record, "{}")


def gone(record: JobRecord) -> Outcome:
    return Outcome.completed(record, "{}", retention=Retention(age=timedelta(0)))


#: A job with a unique key is settled with care, others at once.
SETTLED: dict[str, tuple[dict[str, Any], Callable[[JobRecord], Outcome]]] = {
    "at once": ({}, end),
    "at once, removed": ({}, gone),
    "with care": ({"unique_key": "key"}, end),
    "with care, removed": ({"unique_key": "key"}, gone),
    "given back": ({}, Outcome.given_back),
}


@pytest.mark.parametrize("how", SETTLED)
async def test_a_renewal_that_commits_while_a_settle_waits_for_it_does_not_hide_the_job(
    url: str, how: str
) -> None:
    """Looked for where it had been when the settle began, it was told as applied, and stayed active."""
    fields, outcome = SETTLED[how]
    async with PgStore(url) as store:
        await store.insert([JobRecord(queue="q", id="a", name="work", **fields)])
        await store.insert([JobRecord(queue="q", id="b", name="work")])
        taken = (await store.claim(Claim(queue="q", count=2, token="t", lease=LEASE, worker="w"))).jobs
        assert len(taken) == 2
        with psycopg.connect(url) as connection:
            session = SyncSession(Statements("public"), connection)
            renewed = await renew(session, None, [Beat(lease=taken[0].lease, report="{}")], LEASE)
            assert renewed.held == {taken[0].lease}

            settling = asyncio.create_task(store.settle([outcome(record) for record in taken]))
            await waits_for_a_lock(connection)
            connection.commit()

            settled = await settling
        assert settled.applied == {record.lease for record in taken}
        assert await store.count(Where(queue="q", states=frozenset({JobState.ACTIVE}))) == {}
