"""The handler of the demo: what the processes of its worker import, and nothing else."""

from __future__ import annotations

import ast
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from conveyor.core import Job, Unrecoverable

#: From this size on, a file is worth a word about how far it is.
LARGE_FILE: Final = 200_000


@dataclass(frozen=True)
class Source:
    """The payload of a job: the file to parse, and how much longer to take for it, in seconds."""

    path: str
    slow: float = 0.0


@dataclass(frozen=True)
class Figures:
    """What is counted in a file."""

    lines: int = 0
    functions: int = 0
    classes: int = 0


def parse(jobs: list[Job[Source]]) -> list[Figures | Exception]:
    """The handler: a plain function, which the worker's processes import by its name.

    Parsing is all computing. In threads it would share one processor with the worker's event loop, which has
    leases to renew, jobs to claim and results to write meanwhile; and it takes some files in each call, so
    that their results are written together. One that fails does so alone.
    """
    return [parsed(job) for job in jobs]


def parsed(job: Job[Source]) -> Figures | Exception:
    time.sleep(job.data.slow)
    try:
        source, tree = read(job.data.path)
    except (Unrecoverable, OSError) as error:
        return error
    if len(source) > LARGE_FILE:
        job.update_progress(50)
    return figures_of(source, tree)


def read(path: str) -> tuple[bytes, ast.Module]:
    """A file and its syntax tree.

    Raises OSError if it cannot be read, as a job worth another try; Unrecoverable if it cannot be parsed.
    """
    source = Path(path).read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old-fashioned escapes, of which there are many
            return source, ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise Unrecoverable(f"{type(error).__name__}: {error}") from error


def figures_of(source: bytes, tree: ast.Module) -> Figures:
    functions = classes = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions += 1
        elif isinstance(node, ast.ClassDef):
            classes += 1
    return Figures(lines=len(source.splitlines()), functions=functions, classes=classes)
