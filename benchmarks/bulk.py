"""Whether COPY would make large bulk adds on PostgreSQL faster than the arrays that are used.

    python benchmarks/bulk.py [--rounds 5]

Both write the same rows, through the same insert with its `on conflict`, and say of each whether it is there:
one is given arrays, the other a temporary table that was filled by COPY. They take turns; figures are jobs a
second, the median of the rounds, and the ratio of the two.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import uuid4

import psycopg

from conveyor.core.store import Inserted, JobRecord, JobState
from conveyor.store.pg import PgStore
from conveyor.store.pg.statements import text_of
from conveyor.testing.pg import private_server

SIZES = (100, 1_000, 10_000, 50_000)
_COLUMNS = (
    "queue text, id text, name text, payload text, options text, report text, priority int, lifo boolean, "
    "ageing bigint, delay bigint, run_at timestamptz, grp text, group_max_size int, unique_key text, "
    "unique_for bigint, parent_queue text, parent_id text, pending int, released boolean, "
    "write_order int, ord bigint"
)
#: The store's own insert, reading from a table where it has arrays.
_INSERT = re.sub(
    r"from unnest\(.*?\) with ordinality u \(.*?\n\s+\)",
    "from staged u",
    text_of("insert"),
    flags=re.DOTALL,
).replace("{schema}", "public")


def records(size: int) -> list[JobRecord]:
    """New jobs with a small payload."""
    payload = json.dumps({"to": "ada@example.com", "n": 1})
    return [JobRecord(queue="bulk", id=uuid4().hex, name="work", payload=payload) for _ in range(size)]


async def by_arrays(store: PgStore, jobs: list[JobRecord]) -> None:
    """As the store does it."""
    assert all(found.created for found in await store.insert(jobs))  # noqa: S101 - else it measures nothing


async def by_copy(connection: psycopg.AsyncConnection[tuple[object, ...]], jobs: list[JobRecord]) -> None:
    """By way of COPY."""
    async with connection.transaction():
        await connection.execute(f"create temp table staged ({_COLUMNS}) on commit drop".encode())
        text = io.StringIO()
        for n, job in sorted(
            enumerate(jobs), key=lambda each: each[1].id
        ):  # in one order, as the store writes
            head = (job.queue, job.id, job.name, job.payload, job.options, job.report, "0", "f")
            text.write("\t".join(part.replace("\\", "\\\\") for part in head))
            text.write("\t\\N" * 9 + f"\t0\tf\t{n}\t{n}\n")
        async with connection.cursor() as cursor, cursor.copy("copy staged from stdin") as copy:
            await copy.write(text.getvalue())
        rows = await (await connection.execute(_INSERT.encode(), {"now": None})).fetchall()
    answers = [
        Inserted(key=job.key, created=bool(there), state=JobState(str(state)), created_at=at)  # type: ignore[arg-type]
        for job, (_, there, state, at) in zip(jobs, rows, strict=True)
    ]
    assert all(answer.created for answer in answers)  # noqa: S101 - likewise


async def measure(url: str, rounds: int) -> None:
    """Print a line for each size."""
    async with PgStore(url) as store, await psycopg.AsyncConnection.connect(url, autocommit=True) as other:
        ways: tuple[Callable[[list[JobRecord]], Awaitable[None]], ...] = (
            partial(by_arrays, store),
            partial(by_copy, other),
        )
        for size in SIZES:
            took: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for times, add in zip(took, ways, strict=True):
                    jobs = records(size)
                    began = time.perf_counter()
                    await add(jobs)
                    times.append(time.perf_counter() - began)
            arrays, copied = (size / statistics.median(times) for times in took)
            print(
                f"{size:>7,}: arrays {arrays:>9,.0f}/s, COPY {copied:>9,.0f}/s, ratio {copied / arrays:.2f}"
            )


def main() -> None:
    """Start a server, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    with private_server() as server, server.database("bulk") as url:
        asyncio.run(measure(url, parser.parse_args().rounds))


if __name__ == "__main__":
    main()
