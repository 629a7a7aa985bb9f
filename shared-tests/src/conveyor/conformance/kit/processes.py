"""Roles that are played in processes of their own: see `runner.py`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest


async def in_processes(
    url: str | None,
    role: str,
    count: int = 3,
    *,
    arguments: Sequence[str] | None = None,
    patience: float = 50,
) -> list[list[Any]]:
    """Play a role in several processes at once, and return what each got."""
    processes = started(url, role, arguments or [f"process-{n}" for n in range(count)])

    def play() -> list[list[Any]]:
        let_go(processes)
        return [json.loads(p.communicate(timeout=patience)[0].splitlines()[-1]) for p in processes]

    try:
        return await asyncio.to_thread(play)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def started(url: str | None, role: str, arguments: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Processes that are to play a role, one for each argument, and wait for a line before they begin."""
    if url is None:
        pytest.skip("needs the store's URL: give the class a `store_url` fixture or a `store_scheme`")
    command = [sys.executable, "-m", "conveyor.conformance.kit.runner", url, role]
    return [
        subprocess.Popen(  # noqa: S603 - our own module
            [*command, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for argument in arguments
    ]


def let_go(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Let them begin, all at once."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
