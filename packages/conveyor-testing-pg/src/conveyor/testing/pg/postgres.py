"""A PostgreSQL made in a folder of ours, from a folder of programs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from conveyor.testing.pg.account import Account, unprivileged
from conveyor.testing.pg.data_folder import make
from conveyor.testing.pg.errors import ServiceError
from conveyor.testing.pg.ports import free_port

#: How to stop it: `fast` ends sessions and writes everything; `immediate` is a crash.
STOPS: Final = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
TIMEOUT: Final = 30.0
#: Which line of `postmaster.pid` says how far the server is.
_STATUS: Final = 8


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
        # An account that is somebody else's can neither read what is kept for this user, nor own a copy.
        keep = self._account.user is None
        make(home / "data", self._folder, self._initdb, keep=keep)

    def start(self) -> None:
        """Start it, and return when it answers."""
        if self._process is not None and self._process.poll() is None:
            raise ServiceError("the server runs already")
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        self._process = self._popen("postgres", "-D", str(self._home / "data"), *settings)
        wait_until(self._is_ready, self._process, self._log)

    def _is_ready(self) -> bool:
        """Whether the process that runs has written that it lets in, as `pg_ctl` looks."""
        file = self._home / "data" / "postmaster.pid"
        if self._process is None or not file.exists():
            return False
        pid, *_, status = [*file.read_text("utf-8").splitlines(), "", ""][:_STATUS]
        return pid == str(self._process.pid) and status.strip() == "ready"

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

    def _initdb(self, data: Path) -> None:
        made = self._popen(
            "initdb",
            *("-D", str(data), "-U", "postgres", "-A", "trust"),
            *("-E", "UTF8", "--locale=C"),
            *(("--no-sync",) if data.parent == self._home else ()),  # what is kept must outlive a crash
        )
        if made.wait(120) != 0:
            raise ServiceError(f"initdb failed:\n{tail(self._log)}")

    def _popen(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = (str(self._folder / program), *arguments)
        return self._account.popen(*command, home=self._home, log=self._log, environ={})


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when a server is ready. Raises ServiceError when it ends, or after half a minute."""
    end = time.monotonic() + TIMEOUT
    while not ready():
        if process.poll() is not None:
            raise ServiceError(f"the server ended with {process.returncode}:\n{tail(log)}")
        if time.monotonic() > end:
            raise ServiceError(f"the server does not answer\n{tail(log)}")
        time.sleep(0.02)


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text("utf-8", "replace")[-2000:] if log.exists() else ""
