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
    timeout: float = 50,
    clock_off_by: float = 0,
) -> list[list[Any]]:
    """Play a role in several processes at once, and return what each got."""
    processes = started(
        url, role, arguments or [f"process-{n}" for n in range(count)], clock_off_by=clock_off_by
    )

    def play() -> list[list[Any]]:
        let_go(processes)
        return [_answer(process, timeout) for process in processes]

    try:
        return await asyncio.to_thread(play)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def started(
    url: str | None, role: str, arguments: Sequence[str], *, clock_off_by: float = 0
) -> list[subprocess.Popen[str]]:
    """Processes that are to play a role, one for each argument, and wait for a line before they begin."""
    if url is None:
        pytest.skip("needs the store's URL: give the class a `store_url` fixture or a `store_scheme`")
    module = ["runner"] if not clock_off_by else ["wrong_clock", str(clock_off_by)]
    command = [sys.executable, "-m", f"conveyor.conformance.kit.{module[0]}", *module[1:], url, role]
    return [
        subprocess.Popen(  # noqa: S603 - our own module
            [*command, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for argument in arguments
    ]


def let_go(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Let them begin, all at once."""
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            pytest.fail(f"a process could not open the store by its URL:\n{process.communicate()[1]}")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def _answer(process: subprocess.Popen[str], timeout: float) -> list[Any]:
    """What a process says last, or why it died."""
    output, errors = process.communicate(timeout=timeout)
    if not output:  # some are told to die when they have answered
        pytest.fail(f"a process that used the store died ({process.returncode}):\n{errors}")
    answer: list[Any] = json.loads(output.splitlines()[-1])
    return answer
