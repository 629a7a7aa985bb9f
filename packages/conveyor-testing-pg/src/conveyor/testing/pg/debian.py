"""A program of Debian's, without installing it: its package is fetched and unpacked into a cache."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from conveyor.testing.pg.errors import NotUsableError


def unpacked(package: str, program: str) -> Path:
    """The folder where `package` and the libraries that it lacks here are unpacked, `program` among them.

    The first call on a machine fetches them, with `apt-get` and no rights; later ones find them in the cache.
    Raises NotUsableError where there is no apt-get, or it cannot.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise NotUsableError("there is no apt-get here")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "conveyor-tests"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{package}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = cache / package
        if not (folder / program).exists() or missing(folder, program):
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                made = _fetch(package, program, Path(scratch))
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
    return folder


def libraries(folder: Path) -> str:
    """The value of LD_LIBRARY_PATH for a program there."""
    return ":".join(sorted({str(file.parent) for file in folder.rglob("*.so*")}))


def missing(folder: Path, program: str) -> set[str]:
    """The libraries that the program there does not find."""
    environ = {**os.environ, "LD_LIBRARY_PATH": libraries(folder)}
    return set(re.findall(r"(\S+) => not found", _run("ldd", str(folder / program), environ=environ)))


def _fetch(package: str, program: str, scratch: Path) -> Path:
    folder = scratch / "unpacked"
    options = _unpack([package], folder, scratch, [])
    if missing(folder, program):
        depends = _run("apt-cache", *options, "depends", "--important", package, cwd=scratch)
        needed = sorted(set(re.findall(r"Depends: (lib[\w.+-]+)", depends)) - {"libc6"})
        _unpack(needed, folder, scratch, options)
    if lacking := missing(folder, program):
        raise NotUsableError(f"{package} of apt-get lacks {', '.join(sorted(lacking))}")
    return folder


def _unpack(packages: list[str], folder: Path, scratch: Path, options: list[str]) -> list[str]:
    """Fetch and unpack; the options of apt-get with which it went."""
    try:
        _run("apt-get", *options, "-q", "download", *packages, cwd=scratch)
    except NotUsableError:
        if options:
            raise
        # Its lists may never have been fetched. They are root's, so these are our own.
        state = scratch / "state"
        (state / "lists" / "partial").mkdir(parents=True)
        (state / "cache" / "archives" / "partial").mkdir(parents=True)
        options = [f"-oDir::State::lists={state / 'lists'}", f"-oDir::Cache={state / 'cache'}"]
        _run("apt-get", *options, "-q", "update", cwd=scratch)
        _run("apt-get", *options, "-q", "download", *packages, cwd=scratch)
    for archive in scratch.glob("*.deb"):
        _run("dpkg", "-x", str(archive), str(folder))
        archive.unlink()
    return options


def _run(*command: str, cwd: Path | None = None, environ: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotUsableError(f"{' '.join(command[:2])}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NotUsableError(f"{' '.join(command[:2])}: {''.join(last)}")
    return done.stdout
