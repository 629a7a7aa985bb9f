"""A PgBouncer in transaction mode, in a folder of ours."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg

from conveyor.testing.pg.account import unprivileged
from conveyor.testing.pg.errors import ServiceError
from conveyor.testing.pg.ports import free_port
from conveyor.testing.pg.postgres import TIMEOUT, wait_until


class PgBouncer:
    """The bouncer, as a child of this process. It lets anybody in, as the user of the server's URL."""

    def __init__(  # noqa: PLR0917
        self, home: Path, program: str, root: str, libraries: str, server: str, settings: Mapping[str, str]
    ) -> None:
        self._home = home
        self._account = unprivileged()
        self._account.own(home)
        self._program = self._account.reach(Path(program), Path(root), home / "programs")
        moved = self._program != Path(program)
        self._libraries = (
            libraries.replace(root, str(home / "programs" / Path(root).name)) if moved else libraries
        )
        self._log = home / "pgbouncer.log"
        self._process: subprocess.Popen[bytes] | None = None
        parts = urlsplit(server)
        port = free_port()
        self.url = f"postgresql://{parts.username or 'postgres'}@127.0.0.1:{port}{parts.path}"
        login = {
            "host": parts.hostname,
            "port": parts.port or 5432,
            "user": unquote(parts.username or "postgres"),
        }
        if parts.password:
            login["password"] = unquote(parts.password)
        lines = [
            "[databases]",
            "* = " + " ".join(f"{name}='{_quoted(str(value))}'" for name, value in login.items()),
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {port}",
            "unix_socket_dir =",
            "auth_type = any",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        config = home / "pgbouncer.ini"
        config.write_text("\n".join(lines) + "\n", "utf-8")
        config.chmod(0o600)  # it may hold a password
        self._account.own(config)

    def start(self) -> None:
        """Start it, and return when it lets through to the server."""
        if self._process is not None and self._process.poll() is None:
            raise ServiceError("the bouncer runs already")
        libraries = {"LD_LIBRARY_PATH": self._libraries} if self._libraries else {}
        command = (str(self._program), str(self._home / "pgbouncer.ini"))
        self._process = self._account.popen(*command, home=self._home, log=self._log, environ=libraries)
        wait_until(self._lets_through, self._process, self._log)

    def _lets_through(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, mode: str) -> None:
        """Stop it, and return when it is gone: `fast` lets transactions end, `immediate` cuts them off."""
        if self._process is None or self._process.poll() is not None:
            raise ServiceError("the bouncer does not run")
        self._process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGTERM)
        self._process.wait(TIMEOUT)

    def end(self) -> None:
        """Be gone, whatever the state."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to it; it is one process, whatever `pid` says."""
        del pid
        if self._process is not None:
            self._process.send_signal(number)


def _quoted(value: str) -> str:
    return value.replace("'", "''")
