"""Parse every Python file of a folder by jobs, and check the figures against a plain count.

    python examples/parse_stdlib/main.py                      # this Python's own standard library
    python examples/parse_stdlib/main.py ~/src --kill-one     # a folder of yours; a worker dies half-way
    python examples/parse_stdlib/main.py --store memory:      # any installed store

Three parts, in the order in which they happen: the files are counted in a plain loop; then each becomes a
job, worked off by a worker whose handlers run in processes, one for each processor to be used; then the two
counts are compared, file by file. The worker is in this process, or, with `--workers`, there are as many
processes with a worker each, of which one can be killed.

The run itself is a job, too. While it has not finished, adding it again finds it (deduplication), so a
program that was killed goes on where it was; once it has finished, the next start is a new run.

It is one file so that it can be read from top to bottom, and run by its path alone; but the handler has one
of its own, `parsing.py`, since the processes that run it import what is there, and need nothing from here.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import math
import signal
import sys
import sysconfig
import time
import warnings
from asyncio.subprocess import PIPE
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from conveyor.core import (
    Backoff,
    Batch,
    ConveyorError,
    Deduplication,
    Feature,
    Job,
    JobState,
    NewJob,
    Queue,
    Store,
    Unrecoverable,
    Worker,
    open_store,
)
from parsing import Figures, Source, figures_of, parse, read

if TYPE_CHECKING:
    from collections.abc import Sequence

FIGURES: Final = ("lines", "functions", "classes")
BROKEN: Final = Path(__file__).resolve().parent / "broken"
UNFINISHED: Final = (JobState.WAITING, JobState.DELAYED, JobState.ACTIVE)
#: What is left behind by a worker that dies is taken over after this long.
LOCK_DURATION: Final = "4s"
#: More deaths than this are no accident.
MOST_DEATHS: Final = 10
LONGEST_ID: Final = 255
SECONDS_PER_LINE: Final = 2.0

console = Console()
noted: set[str] = set()


# ------------------------------------------------------------------ what is counted


@dataclass
class Count:
    """The figures of each file that could be parsed, and the reasons of those that could not, by path."""

    parsed: dict[str, Figures] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    #: Of a count by jobs: how many were to do, how many a worker had lost, the runs that each failure took.
    jobs: int = 0
    stalled: int = 0
    tried: dict[str, int] = field(default_factory=dict)

    def total(self, figure: str) -> int:
        return sum(getattr(figures, figure) for figures in self.parsed.values())


def files_in(folder: Path) -> list[str]:
    """Every Python file, but for what others have installed into this Python."""
    found = (path for path in folder.rglob("*.py") if not path.is_dir())
    return sorted(str(path) for path in found if "site-packages" not in path.relative_to(folder).parts)


def plain_count(files: Sequence[str]) -> Count:
    """The same figures without a queue: one process, one loop."""
    count, began = Count(), time.perf_counter()
    with Bar("plain count", len(files)) as bar:
        for number, path in enumerate(files, start=1):
            try:
                count.parsed[path] = figures_of(*read(path))
            except (Unrecoverable, OSError) as error:
                count.failed[path] = str(error)
            bar.show(number)
    count.seconds = time.perf_counter() - began
    return count


# ------------------------------------------------------------------------- the workers


def worker_of(store: Store, queue_name: str, options: argparse.Namespace) -> Worker[Source]:
    return Worker(
        queue_name,
        parse,
        store,
        executor="process",
        processes=options.processes,
        batch=Batch(options.files),
        lock_duration=LOCK_DURATION,
        stalled_interval="1s",
    )


async def work(options: argparse.Namespace) -> None:
    """Worker mode: work until the process that started this one closes our standard input, or dies."""
    async with open_store(options.store) as store, worker_of(store, options.work_for, options):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)


class Crew:
    """The workers: one in this process, or some in processes of their own, replaced when they die."""

    def __init__(self, store: Store, queue_name: str, options: argparse.Namespace) -> None:
        self._here = None if options.workers else worker_of(store, queue_name, options)
        self._command = [sys.executable, *(f"-W{w}" for w in sys.warnoptions), str(Path(__file__).resolve())]
        self._command += ["--work-for", queue_name, "--store", options.store]
        self._command += ["--processes", str(options.processes), "--files", str(options.files)]
        self._size: int = options.workers
        self._processes: list[asyncio.subprocess.Process] = []
        self._talk: set[asyncio.Task[None]] = set()
        self._deaths = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._here is not None:
            await self._here.close()
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            await process.wait()
        await asyncio.gather(*self._talk)

    async def fill(self) -> None:
        """Start as many as are missing."""
        if self._here is not None:
            await self._here.start()  # once it runs, this does nothing
        for process in [p for p in self._processes if p.returncode is not None]:
            self._processes.remove(process)
            self._deaths += 1
            say(f"worker process {process.pid} died; starting another")
        if self._deaths > MOST_DEATHS:
            raise Problem(f"{self._deaths} worker processes have died: see their messages above")
        started = [
            await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
            for _ in range(self._size - len(self._processes))
        ]
        self._processes += started
        # Kept, so that they are not collected before they end.
        self._talk |= {asyncio.create_task(self._repeat(process)) for process in started}
        for process in started:
            if process.stdout is not None and await process.stdout.readline():
                say(f"worker process {process.pid} is ready")

    def kill_one(self) -> None:
        """No good-bye: SIGKILL."""
        say(f"killing worker process {self._processes[0].pid}")
        self._processes[0].kill()

    async def _repeat(self, process: asyncio.subprocess.Process) -> None:
        """Show what a worker process logs, without tearing the progress bar."""
        if process.stderr is not None:
            async for line in process.stderr:
                note(line.decode(errors="replace").rstrip())


# ----------------------------------------------------------------------------- the run


async def is_shared(url: str) -> bool:
    """Whether processes can share the store. What is wrong with it shows here, before any work is done."""
    async with open_store(url) as store:
        return Feature.MULTI_PROCESS in store.features


async def run(files: Sequence[str], folder: Path, options: argparse.Namespace) -> Count:
    """Count by jobs."""
    async with open_store(options.store) as store:
        runs: Queue[None] = Queue(f"parse-runs-{digest(str(folder))}", store)
        await forget(runs, store, even_unfinished=options.fresh)
        this = await runs.add("run", deduplication=Deduplication("run"))
        queue = Queue(f"parse-{this.id}", store, payload=Source)

        began = time.perf_counter()
        async with Crew(store, queue.name, options) as crew:
            # The jobs are added while the processes start. Their ids are made from the paths, so adding a
            # file again changes nothing.
            added, _ = await asyncio.gather(
                queue.add_bulk(
                    NewJob(
                        "parse",
                        Source(path, options.slow),
                        job_id=job_id(path, folder),
                        attempts=3,
                        backoff=Backoff("exponential", "200ms"),
                    )
                    for path in files
                ),
                crew.fill(),
            )
            left = sum(not job.state.terminal for job in added)
            how = "found the run that was cut off" if this.deduplicated else "new run"
            say(f"{how}: {len(added):,} jobs, {left:,} of them to do")
            await finished(queue, len(files), crew, kill_at=left // 2 if options.kill_one else None)
            count = await outcome(queue, set(files))
            count.seconds = time.perf_counter() - began
        count.jobs = left

        async def total(_: Job[None]) -> dict[str, int]:
            return {figure: count.total(figure) for figure in FIGURES}

        # The run's own job is done as well: the next start finds none that it could go on with.
        await Worker(runs.name, total, store).run_until_idle()
        return count


async def finished(queue: Queue[Source], total: int, crew: Crew, kill_at: int | None) -> None:
    """Return when no job is left to do. The store is asked now and then: events are only hints."""
    with Bar("Conveyor", total) as bar:
        while left := await queue.count(*UNFINISHED):
            bar.show(total - left)
            await crew.fill()
            if kill_at is not None and left <= kill_at:
                crew.kill_one()
                kill_at = None
            await asyncio.sleep(0.1)
        bar.show(total)


async def outcome(queue: Queue[Source], files: set[str]) -> Count:
    """What the jobs of these files returned, or failed with."""
    count, last = Count(), None
    while jobs := await queue.get_jobs(after=last, limit=1_000):
        last = jobs[-1]
        for job in jobs:
            path = job.data.path
            count.stalled += job.stalled_count > 0
            if path in files and job.state is JobState.COMPLETED:
                count.parsed[path] = Figures(**job.return_value)
            elif path in files:
                count.failed[path] = job.failed_reason or str(job.state)
                count.tried[path] = job.attempts_made
    return count


async def forget(runs: Queue[None], store: Store, *, even_unfinished: bool) -> None:
    """Remove earlier runs with all their jobs."""
    for old in await runs.get_jobs():
        if old.state.terminal or even_unfinished:
            await Queue(f"parse-{old.id}", store).obliterate(force=True)
            await old.remove()


def job_id(path: str, folder: Path) -> str:
    """The path within the folder, if that can be an id."""
    name = name_in(folder, path)
    return name if len(name) <= LONGEST_ID and name.isprintable() else digest(name)


def name_in(folder: Path, path: str) -> str:
    return str(Path(path).relative_to(folder if Path(path).is_relative_to(folder) else BROKEN.parent))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


# ----------------------------------------------------------------------- what is shown


class Problem(Exception):  # noqa: N818 - told to the user, not to a caller
    """Something that the user can put right."""


class Bar:
    """How far something is: a bar in a terminal, elsewhere a line now and then."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._told = title, total, time.monotonic()
        columns = (
            TextColumn("{task.description:12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task(title, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int) -> None:
        if console.is_terminal:
            self._progress.update(self._task, completed=done)
        elif done == self._total or time.monotonic() - self._told > SECONDS_PER_LINE:
            self._told = time.monotonic()
            say(f"{self._title}: {done:,} of {self._total:,}")


def say(line: str) -> None:
    """A line of text, above the bar if there is one, and at once: somebody may be reading a pipe."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.file.flush()


def note(line: str) -> None:
    """Say something that several processes may notice, once."""
    if line not in noted:
        noted.add(line)
        say(line)


class Notes(logging.Handler):
    """What this process logs."""

    def emit(self, record: logging.LogRecord) -> None:
        note(self.format(record))


def show(plain: Count, ours: Count, folder: Path) -> None:
    say("\nfailed:")
    failures = Table(box=None)
    for column in ("file", "runs", "reason"):
        failures.add_column(column, overflow="fold")
    for path, reason in sorted(ours.failed.items()):
        failures.add_row(escape(name_in(folder, path)), str(ours.tried.get(path, 0)), escape(reason))
    console.print(failures)

    say(f"\n{folder}")
    table = Table()
    table.add_column("")
    table.add_column("plain count", justify="right")
    table.add_column("Conveyor", justify="right")
    rows: list[tuple[str, float, float]] = [
        ("files", len(plain.parsed) + len(plain.failed), len(ours.parsed) + len(ours.failed)),
        *((figure, plain.total(figure), ours.total(figure)) for figure in FIGURES),
        ("failures", len(plain.failed), len(ours.failed)),
    ]
    for name, left, right in rows:
        table.add_row(name, f"{left:,}", f"{right:,}")
    table.add_row("seconds", f"{plain.seconds:.1f}", f"{ours.seconds:.1f}")
    if ours.jobs == len(ours.parsed) + len(ours.failed):  # and nothing was done before
        table.add_row("of the plain count's seconds", "1.00", f"{ours.seconds / plain.seconds:.2f}")
    per_second = ours.jobs / ours.seconds
    table.add_row("jobs per second", "", f"{per_second:,.0f}" if ours.jobs else "none left")
    if ours.stalled:
        table.add_row("taken back from dead workers", "", f"{ours.stalled:,}")
    console.print(table)


def agree(plain: Count, ours: Count) -> bool:
    """Whether both have the same figures for the same files; if not, the files are named."""
    different = [
        path
        for path in sorted({*plain.parsed, *plain.failed, *ours.parsed, *ours.failed})
        if plain.parsed.get(path) != ours.parsed.get(path) or (path in plain.failed) != (path in ours.failed)
    ]
    if not different:
        say(f"The two counts agree, on each of {len(ours.parsed) + len(ours.failed):,} files.")
        return True
    say(f"THE TWO COUNTS DIFFER, on {len(different):,} files, among them {', '.join(different[:5])}")
    say("If files were changed since this run was begun, use --fresh.")
    return False


# ------------------------------------------------------------------------ command line


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Parse a folder of Python files as jobs of a Conveyor queue."
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(sysconfig.get_path("stdlib")),
        help="the folder to parse (default: this Python's standard library)",
    )
    parser.add_argument(
        "--store", default="sqlite:///conveyor-demo.db", help="the store's URL (default: %(default)s)"
    )
    parser.add_argument(
        "--processes", type=at_least_one, default=2, help="processes that parse, of each worker (default: 2)"
    )
    parser.add_argument(
        "--workers",
        type=at_least_one,
        default=0,
        help="workers, each in a process of its own (default: one, in this process)",
    )
    parser.add_argument(
        "--files", type=at_least_one, default=20, help="files for one call of the handler (default: 20)"
    )
    parser.add_argument(
        "--kill-one", action="store_true", help="kill a worker process half-way; nothing is lost"
    )
    parser.add_argument("--fresh", action="store_true", help="begin anew, even if an earlier run was cut off")
    parser.add_argument(
        "--slow", type=not_negative, default=0.0, metavar="SECONDS", help="let each job take longer"
    )
    parser.add_argument("--work-for", metavar="QUEUE", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be 1 or more")
    return number


def not_negative(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError("it must not be negative")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_of(arguments)
    warnings.filterwarnings("ignore", message="lock_duration=")  # its leases are short on purpose
    if options.work_for:
        # Ctrl-C reaches every process of a terminal; the one that started us will tell us.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        asyncio.run(work(options))
        return 0
    logging.basicConfig(format="%(message)s", handlers=[Notes()])
    try:
        return demo(options)
    except (Problem, ConveyorError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; start it again to go on", file=sys.stderr)
        return 130


def demo(options: argparse.Namespace) -> int:
    folder = options.folder.resolve()
    if not folder.is_dir():
        raise Problem(f"{options.folder} is not a folder")
    files = files_in(folder)
    if not files:
        raise Problem(f"there are no Python files in {folder}")
    shared = asyncio.run(is_shared(options.store))
    if not shared and (options.kill_one or options.workers):
        option = "--kill-one" if options.kill_one else "--workers"
        raise Problem(f"{option} needs a store that several processes can share")
    if options.kill_one:
        options.workers = max(1, options.workers)
    plain = plain_count(files)
    if not plain.failed:
        # Some Pythons come without their tests, where the broken files are. Failures are to be seen anyhow.
        broken = sorted(str(path) for path in BROKEN.iterdir())
        say(f"all can be parsed, so {len(broken)} that cannot are added")
        more = plain_count(broken)
        files, plain.failed = [*files, *broken], more.failed
    ours = asyncio.run(run(files, folder, options))
    show(plain, ours, folder)
    return 0 if agree(plain, ours) else 1


if __name__ == "__main__":
    sys.exit(main())
