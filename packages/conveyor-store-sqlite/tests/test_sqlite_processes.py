"""Several processes on one file: no job twice, none lost, and the file stays whole."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from conveyor.core.store import JobRecord, JobState, Where
from conveyor.store.sqlite import SqliteStore

pytestmark = pytest.mark.slow

#: Adds jobs and works off what is there; prints what it settled, a line for each batch.
WORKER = """
import asyncio, json, os, sys
from datetime import timedelta
from uuid import uuid4
from conveyor.core.store import JobRecord
from conveyor.core.store import Claim, Limit, Outcome, Where
from conveyor.store.sqlite import SqliteStore

path, name, adds, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])

async def add(store):
    for n in range(adds):
        ids = [f"{name}-{n}-{m}" for m in range(10)]
        await store.insert([JobRecord(queue="q", id=id, name="work", group=f"g{id[-1]}") for id in ids])

async def work(store):
    idle = 0
    while idle < 20:
        request = Claim(
            queue="q", count=7, token=uuid4().hex, lease=timedelta(seconds=1), worker=name,
            limit=None if limit is None else Limit(active=limit),
        )
        claimed = await store.claim(request)
        if limit is not None:
            counts = await store.count(Where(queue="q"))
            assert sum(n for (_, state), n in counts.items() if state == "active") <= limit
        if not claimed.jobs:
            idle += 1
            await store.advance({"q"})
            await asyncio.sleep(0.05)
            continue
        idle = 0
        settled = await store.settle([Outcome.completed(job, "{}") for job in claimed.jobs])
        print(json.dumps([lease.id for lease in settled.applied]), flush=True)

async def main():
    async with SqliteStore(path, synchronous="NORMAL") as store:
        await asyncio.gather(add(store), work(store))

asyncio.run(main())
"""


def start(path: Path, name: str, adds: int, limit: int | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, path, name, str(adds), json.dumps(limit)],
        stdout=subprocess.PIPE,
        text=True,
    )


def settled_by(output: str) -> list[str]:
    return [id for line in output.splitlines() if line.endswith("]") for id in json.loads(line)]


def ask(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


@pytest.mark.parametrize("limit", [None, 10])
def test_several_processes_settle_every_job_exactly_once(tmp_path: Path, limit: int | None) -> None:
    path = tmp_path / "jobs.db"

    workers = [start(path, f"w{n}", 20, limit) for n in range(4)]
    settled = [id for worker in workers for id in settled_by(worker.communicate(timeout=120)[0])]

    assert [worker.returncode for worker in workers] == [0] * 4
    assert sorted(settled) == sorted(
        {f"w{w}-{n}-{m}" for w in range(4) for n in range(20) for m in range(10)}
    )
    assert ask(path, "pragma integrity_check") == [("ok",)]
    assert ask(path, "select state, count(*) from conveyor_jobs group by 1") == [("completed", 800)]
    assert ask(path, "select coalesce(sum(waiting + delayed + active), 0) from conveyor_groups") == [(0,)]


def test_a_killed_worker_loses_no_job(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    survivor = start(path, "survivor", 30)
    victims = [start(path, f"victim{n}", 30) for n in range(3)]
    for victim in victims:
        assert victim.stdout is not None
        victim.stdout.readline()
        time.sleep(0.05)
        victim.send_signal(signal.SIGKILL)

    outputs = [process.communicate(timeout=120)[0] for process in (survivor, *victims)]
    # On a busy machine the survivor may have found nothing to do before the last victim had begun.
    finisher = start(path, "finisher", 0)
    outputs.append(finisher.communicate(timeout=120)[0])

    assert (survivor.returncode, finisher.returncode) == (0, 0)
    told = [id for output in outputs for id in settled_by(output)]
    assert len(told) == len(set(told))
    assert ask(path, "pragma integrity_check") == [("ok",)]
    states = dict(ask(path, "select state, count(*) from conveyor_jobs group by 1"))
    assert states.keys() == {"completed"}
    assert states["completed"] >= max(300, len(told))


async def test_two_handles_that_add_in_turn_keep_one_order(tmp_path: Path) -> None:
    async with (
        SqliteStore(tmp_path / "jobs.db", synchronous="NORMAL") as one,
        SqliteStore(tmp_path / "jobs.db", synchronous="NORMAL") as two,
    ):
        for n in range(100):
            await (one, two)[n % 2].insert([JobRecord(queue="q", id=str(n), name="work")])

        found = await one.find(Where(queue="q"), limit=1_000)

    assert [record.id for record in found] == [str(n) for n in range(100)]
    assert len({record.seq for record in found}) == 100


async def test_handles_that_write_all_the_time_let_each_other_in(tmp_path: Path) -> None:
    handles = [
        SqliteStore(tmp_path / "jobs.db", synchronous="NORMAL", operation_timeout="5s") for _ in range(3)
    ]
    for handle in handles:
        await handle.open()
    end = asyncio.get_running_loop().time() + 0.5
    done = [0] * len(handles)

    async def write(n: int) -> None:
        while asyncio.get_running_loop().time() < end:
            await handles[n].insert([JobRecord(queue="q", id=f"{n}-{done[n]}", name="work")])
            done[n] += 1

    await asyncio.gather(*(write(n) for n in range(len(handles)) for _ in range(3)))

    counts = await handles[0].count(Where(queue="q"))
    for handle in handles:
        await handle.close()
    assert min(done) > 0
    assert counts[("q", JobState.WAITING)] <= sum(done)
