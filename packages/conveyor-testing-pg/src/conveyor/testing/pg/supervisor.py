"""The process that keeps one server, and ends it with its owner, however that one ended.

    python -m conveyor.testing.pg.supervisor '{"kind": "postgres", "owner": 4711, …}'

It makes a folder, starts the server there, writes one line of JSON about it to its output, and then does
what it is asked to over a socket in that folder, until its owner is gone or it is told to end. Then the
server and the folder go. A test run that is killed cannot clean up after itself, and `pg_ctl` would leave a
server behind.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, Final, Protocol

_LONGEST: Final = 60


class Service(Protocol):
    """A server that can be started and stopped again and again."""

    url: str

    def start(self) -> None:
        """Start it, and return when it answers."""
        ...

    def stop(self, mode: str) -> None:
        """Stop it, and return when it is gone."""
        ...

    def end(self) -> None:
        """Be gone, whatever the state."""
        ...

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to one of its processes."""
        ...


class Supervisor:
    """One server, its folder, and what was done to it."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="conveyor-", dir=_temporary()))
        self.home.chmod(0o711)
        self._frozen: set[int] = set()
        self.service: Service | None = None
        try:
            service = _made(kind, self.home, options)
            self.service = service
            service.start()
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self.home / "control"))
            self._listener.listen()
        except BaseException:
            self.end()
            raise

    def facts(self) -> dict[str, str]:
        """What its owner has to know."""
        assert self.service is not None  # noqa: S101
        return {"url": self.service.url, "home": str(self.home)}

    def serve(self, owner: int) -> None:
        """Do what is asked, until told to end or until the owner is gone."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            handle = _watch(owner)
            if handle is not None:
                selector.register(handle, selectors.EVENT_READ)
            while alive(owner):
                ready = {key.fileobj for key, _ in selector.select(0.2)}
                if handle in ready:
                    break
                if self._listener in ready and not self._answer():
                    break

    def _answer(self) -> bool:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rw", encoding="utf-8") as stream:
            try:
                request = json.loads(stream.readline())
                if request["do"] == "end":
                    self.end()
                else:
                    self._do(**request)
                answer = {}
            except Exception as error:  # noqa: BLE001 - told to the one who asked
                answer = {"error": f"{type(error).__name__}: {error}"}
                request = {"do": None}
            try:
                stream.write(json.dumps(answer) + "\n")
                stream.flush()
            except OSError:  # it did not wait
                pass
            return bool(request["do"] != "end")

    def _do(self, do: str, mode: str = "", pid: int = 0) -> None:
        assert self.service is not None  # noqa: S101
        match do:
            case "start":
                self.service.start()
            case "stop":
                self.service.stop(mode)
            case "freeze":
                self.service.signal(pid, signal.SIGSTOP)
                self._frozen.add(pid)
            case "thaw":
                self._frozen.discard(pid)
                self.service.signal(pid, signal.SIGCONT)
            case _:
                raise ValueError(do)

    def end(self) -> None:
        """Remove the server and its folder."""
        if self.service is not None:
            for pid in self._frozen:
                try:
                    self.service.signal(pid, signal.SIGCONT)
                except OSError:
                    continue
            self.service.end()
            self.service = None
        shutil.rmtree(self.home, ignore_errors=True)


def _made(kind: str, home: Path, options: dict[str, Any]) -> Service:
    """A service, not started. Only what that kind needs is imported."""
    match kind:
        case "postgres":
            from conveyor.testing.pg.postgres import Postgres  # noqa: PLC0415

            return Postgres(home, **options)
        case "bouncer":
            from conveyor.testing.pg.pgbouncer_process import PgBouncer  # noqa: PLC0415

            return PgBouncer(home, **options)
        case "docker":
            from conveyor.testing.pg.container import Container  # noqa: PLC0415

            return Container(home, **options)
        case _:
            raise ValueError(kind)


def _temporary() -> str:
    """A folder whose path is short: that of a socket in it may have about a hundred characters."""
    folder = tempfile.gettempdir()
    return folder if len(folder) < _LONGEST else "/tmp"  # noqa: S108


def _watch(pid: int) -> int | None:
    """A handle that becomes readable when the process ends, even while nobody has asked for its status."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def main(kind: str, owner: int, **options: Any) -> None:
    """Keep one server for `owner`, as a process that is nobody's child: nobody has to wait for it."""
    if os.fork() != 0:
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner
    try:
        supervisor = Supervisor(kind, options)
    except Exception:  # noqa: BLE001 - told to the owner
        print(json.dumps({"error": traceback.format_exc(limit=-1)}), flush=True)  # noqa: T201
        sys.exit(1)
    try:
        print(json.dumps(supervisor.facts()), flush=True)  # noqa: T201
        with (supervisor.home / "supervisor.log").open("wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        supervisor.serve(owner)
    finally:
        supervisor.end()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
