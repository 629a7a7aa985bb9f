"""Worker behaviour: what a handler does with its job."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import Bench, Recorder
from conveyor.conformance.kit.make import at
from conveyor.core import (
    Job,
)


@area("queue behaviour")
class HandlerCalls:
    """Progress, logs, data, and all of it from a thread."""

    async def test_progress_logs_and_history_are_kept_with_the_job(self, bench: Bench) -> None:
        job = await bench.queue.add("work", attempts=2)

        async def handler(job: Job[Any]) -> str:
            await job.log(f"run {job.attempts_made}: é🐝")
            await job.update_progress(40 + job.attempts_made)
            if not job.attempts_made:
                raise RuntimeError("first")
            return "ok"

        await bench.run(handler)

        found = await bench.queue.get_job(job.id)
        assert found is not None
        assert found.logs == ["run 0: é🐝", "run 1: é🐝"]
        assert (found.progress, found.return_value) == (41, "ok")
        assert [run.outcome for run in found.attempt_history] == ["failed", "completed"]
        assert [run.started_at for run in found.attempt_history] == [at(0), at(0)]

    async def test_many_lines_logged_at_once_are_all_kept(self, bench: Bench) -> None:
        """B20: upstream lost lines of concurrent writers."""
        job = await bench.queue.add("work")

        async def handler(job: Job[Any]) -> None:
            await asyncio.gather(*(job.log(f"line {n}") for n in range(40)))

        await bench.run(handler)

        assert sorted((await job.refresh()).logs) == sorted(f"line {n}" for n in range(40))

    async def test_a_handler_may_change_its_jobs_data(self, bench: Bench) -> None:
        job = await bench.queue.add("work", {"step": 1}, attempts=2)
        recorder = Recorder()

        async def handler(job: Job[Any]) -> None:
            await recorder(job)
            await job.update_data({"step": job.data["step"] + 1})
            if job.attempts_made == 0:
                raise RuntimeError("again")

        await bench.run(handler)

        assert recorder.data == [{"step": 1}, {"step": 2}]
        assert (await job.refresh()).data == {"step": 3}

    async def test_a_plain_function_runs_in_a_thread_and_talks_to_the_store(self, bench: Bench) -> None:
        job = await bench.queue.add("work")
        threads: list[bool] = []

        def handler(job: Job[Any]) -> str:
            threads.append(threading.current_thread() is threading.main_thread())
            job.log("from a thread")
            return "ok"

        await bench.run(handler)

        await job.refresh()
        assert threads == [False]
        assert (job.logs, job.return_value) == (["from a thread"], "ok")
