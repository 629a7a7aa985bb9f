"""The data folder of a server: a copy of what `initdb` once made with the same programs, which takes long."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def make(data: Path, programs: Path, initdb: Callable[[Path], None], *, keep: bool) -> None:
    """Make a data folder for these programs; `keep`: by way of one that is kept for later servers.

    That is in the cache of the user, where it is made if need be. What cannot be kept there is made anew.
    """
    kept = _kept(programs) if keep else None
    if kept is None:
        initdb(data)
        return
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            initdb(Path(scratch, "data"))
            with suppress(OSError):  # another process was faster
                Path(scratch, "data").rename(kept)
    shutil.copytree(kept, data)


def _kept(programs: Path) -> Path | None:
    """Where the folder of these programs is kept; None where nothing can be."""
    postgres = programs / "postgres"
    try:
        version = subprocess.run([postgres, "--version"], capture_output=True, check=True).stdout  # noqa: S603
        build = hashlib.sha256(version + str(postgres.stat().st_size).encode()).hexdigest()[:16]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "conveyor-tests"
        cache.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return None
    return cache / f"data-{build}" if os.access(cache, os.W_OK) else None
