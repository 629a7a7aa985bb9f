"""This side of a supervisor: starting one, and asking it to do things."""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from conveyor.testing.pg.errors import NotUsableError, ServiceError

START_TIMEOUTS: Final = {"docker": 300.0}  # the image may have to be fetched


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """A server that runs in the care of a supervisor. Any process of its user may use it."""

    url: str
    home: Path

    def ask(self, do: str, **details: Any) -> None:
        """Have it done, and return when it is. Raises ServiceError when it could not be done."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.home / "control"))
            except OSError as error:
                raise ServiceError(f"the server of {self.home} is gone") from error
            with connection.makefile("rw", encoding="utf-8") as stream:
                stream.write(json.dumps({"do": do, **details}) + "\n")
                stream.flush()
                answer = json.loads(stream.readline() or '{"error": "it ended without an answer"}')
        if "error" in answer:
            raise ServiceError(f"{do}: {answer['error']}")


def supervise(kind: str, owner: int, options: Mapping[str, Any]) -> Supervised:
    """Start a server that ends with the process `owner`. Raises NotUsableError when it does not start."""
    read, write = os.pipe()
    request = json.dumps({"kind": kind, "owner": owner, **options})
    try:
        # What is started leaves a child behind, and ends.
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "conveyor.testing.pg.supervisor", request],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, write, 1),
                (os.POSIX_SPAWN_DUP2, write, 2),
            ],
        )
        os.waitpid(pid, 0)
    finally:
        os.close(write)
    try:
        said = _first_line(read, START_TIMEOUTS.get(kind, 120.0))
    finally:
        os.close(read)
    try:
        facts = json.loads(said)
    except ValueError:
        facts = {"error": said or "it said nothing"}
    if "error" in facts:
        raise NotUsableError(f"did not start: {facts['error'].strip()}")
    return Supervised(url=facts["url"], home=Path(facts["home"]))


def _first_line(pipe: int, timeout: float) -> str:
    said = b""
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        piece = os.read(pipe, 65536)
        said += piece
        if not piece or (said.startswith(b"{") and b"\n" in piece):
            break
    return said.decode("utf-8", "replace")
