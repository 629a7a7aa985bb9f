"""A PostgreSQL made in a folder of ours, from a folder of programs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psycopg

from conveyor.testing.pg.account import Account, unprivileged
from conveyor.testing.pg.errors import ServiceError
from conveyor.testing.pg.ports import free_port

#: How to stop it: `fast` ends sessions and writes everything; `immediate` is a crash.
STOPS: Final = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
TIMEOUT: Final = 30.0


class Postgres:
    """The server, as a child of this process."""

    def __init__(self, home: Path, folder: str, root: str, settings: Mapping[str, str]) -> None:
        self._home = home
        self._account: Account = unprivileged()
        self._account.own(home)
        self._folder = self._account.reach(Path(folder), Path(root), home / "programs")
        self._log = home / "postgres.log"
        port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._settings = {
            **settings,
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(home),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._make()

    def start(self) -> None:
        """Start it, and return when it answers."""
        if self._process is not None and self._process.poll() is None:
            raise ServiceError("the server runs already")
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        self._process = self._popen("postgres", "-D", str(self._home / "data"), *settings)
        wait_until_up(self.url, self._process, self._log)

    def stop(self, mode: str) -> None:
        """Stop it, and return when it is gone."""
        if self._process is None or self._process.poll() is not None:
            raise ServiceError("the server does not run")
        self._process.send_signal(STOPS[mode])
        self._process.wait(TIMEOUT)

    def end(self) -> None:
        """Be gone, whatever the state."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(8)  # after 5 s it kills what does not listen
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to one of its processes."""
        os.kill(pid, number)

    def _make(self) -> None:
        made = self._popen(
            "initdb",
            *("-D", str(self._home / "data"), "-U", "postgres", "-A", "trust"),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
        )
        if made.wait(120) != 0:
            raise ServiceError(f"initdb failed:\n{tail(self._log)}")

    def _popen(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = (str(self._folder / program), *arguments)
        return self._account.popen(*command, home=self._home, log=self._log, environ={})


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when a server answers there. Raises ServiceError when it ends, or after half a minute."""
    end = time.monotonic() + TIMEOUT
    while True:
        if process.poll() is not None:
            raise ServiceError(f"the server ended with {process.returncode}:\n{tail(log)}")
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > end:
                raise ServiceError(f"the server does not answer: {error}\n{tail(log)}") from error
            time.sleep(0.02)
        else:
            return


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text("utf-8", "replace")[-2000:] if log.exists() else ""
