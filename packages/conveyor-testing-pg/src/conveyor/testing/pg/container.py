"""A PostgreSQL in a Docker container."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psycopg

from conveyor.testing.pg.errors import NotUsableError, ServiceError
from conveyor.testing.pg.ports import free_port

SIGNALS: Final = {"fast": "SIGINT", "immediate": "SIGQUIT"}
TIMEOUT: Final = 60.0


def find_engine() -> None:
    """Return if a Docker engine answers. Raises NotUsableError if not, at once when there is none."""
    try:
        from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise NotUsableError("testcontainers is not installed") from None
    reason = ""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        try:
            client: Any = DockerClient(timeout=3).client
            client.ping()
            client.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody answers
            reason = f"no Docker engine answers ({type(error).__name__})"
        if reason:
            gc.collect()  # the client leaves a socket open when it cannot connect
    if reason:
        raise NotUsableError(reason)


class Container:
    """The server, in a container that keeps its port when it is stopped and started again."""

    def __init__(self, _home: Path, image: str, settings: Mapping[str, str]) -> None:
        from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - an optional dependency

        port = free_port()
        flags = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self._container: Any = PostgresContainer(
            image, username="postgres", password="postgres", dbname="postgres", driver=None
        )
        self._container.with_command(f"postgres {flags}").with_bind_ports(5432, port)
        self._made = False
        self._port = port
        self.url = ""

    def start(self) -> None:
        """Start it, and return when it answers."""
        if self._made:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._made = True
        host = self._container.get_container_host_ip()
        self.url = f"postgresql://postgres:postgres@{host}:{self._port}/postgres"
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError as error:
                if time.monotonic() > end:
                    raise ServiceError(f"the server in the container does not answer: {error}") from error
                time.sleep(0.05)
            else:
                return

    def stop(self, mode: str) -> None:
        """Stop it, and return when it is gone."""
        container = self._container.get_wrapped_container()
        container.kill(signal=SIGNALS[mode])
        container.wait(timeout=TIMEOUT)

    def end(self) -> None:
        """Be gone, whatever the state."""
        if self._made:
            self._container.stop()

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to one of its processes; the number of the process is the container's."""
        done = self._container.get_wrapped_container().exec_run(["kill", f"-{number}", str(pid)], user="root")
        if done.exit_code != 0:
            raise ServiceError(f"could not send signal {number} to {pid}: {done.output!r}")
