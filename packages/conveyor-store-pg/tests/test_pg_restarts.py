"""The server goes away and comes back, in all the ways it can: no job lost, none settled twice, no noise."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest

from conveyor.testing.pg import Mode, Server, private_server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_restarts")]

MEMBER = Path(__file__).with_name("pg_member.py")
#: How long after the server's return work must go on, in seconds.
SOON = 5.0
#: More than that is noise, for each process.
FEW_LINES = 30
PATIENCE = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with private_server() as running:
        yield running


class Member:
    """A process that adds jobs and runs them, and what it has told."""

    def __init__(self, url: str, name: str, folder: Path, adders: int = 4, concurrency: int = 8) -> None:
        self.name = name
        self.told: list[dict[str, Any]] = []
        self.errors = folder / f"{name}.log"
        with self.errors.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, MEMBER, url, name, str(adders), str(concurrency)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told.append(json.loads(line))

    def all(self, word: str, *, since: float = 0.0) -> list[Any]:
        """What it told by that word."""
        return [line[word] for line in list(self.told) if word in line and line["at"] >= since]

    @property
    def log(self) -> str:
        return self.errors.read_text("utf-8")

    def say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        self.say()
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code


class Fleet:
    """Several of them on one database."""

    def __init__(self, url: str, members: list[Member]) -> None:
        self.url = url
        self.members = members

    def all(self, word: str, *, since: float = 0.0) -> list[Any]:
        return [what for member in self.members for what in member.all(word, since=since)]

    def until(self, true: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Wait until it is true; False: it took too long, or a process ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if true():
                return True
            if any(member.process.poll() is not None for member in self.members):
                return False
            time.sleep(0.02)
        return False

    def works(self) -> bool:
        """Wait until each has added and finished ten more jobs, which shows that it is well."""
        now = time.monotonic()
        return self.until(
            lambda: all(
                len(member.all("done", since=now)) >= 10 and len(member.all("added", since=now)) >= 10
                for member in self.members
            )
        )

    def went_on(self, since: float) -> bool:
        """Whether each has added and finished jobs by itself soon after that moment."""
        self.until(
            lambda: all(
                member.all("done", since=since) and member.all("added", since=since)
                for member in self.members
            ),
            SOON,
        )
        first = [
            min(
                (line["at"] for line in list(member.told) if word in line and line["at"] >= since),
                default=1e99,
            )
            for member in self.members
            for word in ("done", "added")
        ]
        return max(first) - since < SOON

    def finish(self) -> None:
        """Add no more, let all be done, and look whether anything is missing or was done twice."""
        for member in self.members:
            member.say()
        assert self.until(lambda: len(self.all("enough")) == len(self.members)), self.logs()
        assert self.until(lambda: set(self.all("done")) >= set(self.all("added"))), (
            self.missing(),
            self.logs(),
        )
        with psycopg.connect(self.url) as connection:
            states = connection.execute(
                "select state, count(*) from conveyor_jobs where queue = 'q' group by 1"
            )
            counts: dict[str, int] = dict(states.fetchall())

        assert [member.end() for member in self.members] == [0] * len(self.members), self.logs()
        assert Counter(self.all("done")) == Counter(self.all("added"))
        assert counts == {"completed": len(self.all("added"))}
        for member in self.members:
            assert len(member.log.splitlines()) < FEW_LINES, member.log
            assert "Traceback" not in member.log, member.log

    def missing(self) -> list[Any]:
        """What has become of the jobs that nobody told to be done."""
        ids = sorted(set(self.all("added")) - set(self.all("done")))
        with psycopg.connect(self.url) as connection:
            return connection.execute(
                "select id, state, attempt, stalled, locked_by, token, settled_token, lease_until "
                "from conveyor_jobs where id = any(%s)",
                [ids],
            ).fetchall()

    def logs(self) -> str:
        return "\n".join(f"--- {member.name}\n{member.log}" for member in self.members)


@contextmanager
def fleet(
    server: Server, folder: Path, *, options: str = "", count: int = 2, **member: int
) -> Iterator[Fleet]:
    """Some processes at work on a database of their own."""
    with server.database(f"fleet_{folder.name.replace('-', '_')}"[:60].lower()) as url, ExitStack() as stack:
        members = [Member(f"{url}?{options}", f"m{n}", folder, **member) for n in range(count)]
        for one in members:
            stack.callback(one.process.communicate)
            stack.callback(one.process.kill)
        running = Fleet(url, members)
        assert running.until(lambda: len(running.all("ready")) == count), running.logs()
        assert running.works(), running.logs()
        yield running


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_the_server_loses_nothing(server: Server, tmp_path: Path, mode: Mode) -> None:
    with fleet(server, tmp_path) as running:
        server.stop(mode)
        time.sleep(1)
        server.start()
        back = time.monotonic()

        assert running.went_on(back), running.logs()
        running.finish()


@pytest.mark.chaos
def test_a_server_away_for_longer_than_a_call_and_a_lease_loses_nothing(
    server: Server, tmp_path: Path
) -> None:
    with fleet(server, tmp_path, options="operation_timeout=500ms") as running:
        server.stop("immediate")
        time.sleep(4)
        server.start()
        back = time.monotonic()

        assert running.went_on(back), running.logs()
        assert running.all("refused")
        running.finish()


def backends(connection: psycopg.Connection[Any]) -> list[int]:
    rows = connection.execute(
        "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
        "order by random()"
    )
    return [pid for (pid,) in rows.fetchall()]


def test_backends_ended_in_the_middle_of_everything_lose_nothing(server: Server, tmp_path: Path) -> None:
    with fleet(server, tmp_path) as running:
        with psycopg.connect(running.url, autocommit=True) as connection:
            for _ in range(6):
                for pid in backends(connection)[:2]:
                    connection.execute("select pg_terminate_backend(%s)", [pid])
                time.sleep(0.3)
            for pid in backends(connection):
                connection.execute("select pg_terminate_backend(%s)", [pid])
        over = time.monotonic()

        assert running.went_on(over), running.logs()
        running.finish()


@pytest.mark.parametrize("timeout", ["10s", pytest.param("1s", marks=pytest.mark.chaos)])
def test_a_backend_frozen_for_seconds_loses_nothing(server: Server, tmp_path: Path, timeout: str) -> None:
    with fleet(server, tmp_path, options=f"operation_timeout={timeout}") as running:
        with psycopg.connect(running.url, autocommit=True) as connection:
            pids = backends(connection)
        with ExitStack() as stack:
            for pid in pids[: max(1, len(pids) // 2)]:
                stack.enter_context(server.frozen(pid))
            time.sleep(3)
        over = time.monotonic()

        assert running.went_on(over), running.logs()
        running.finish()
