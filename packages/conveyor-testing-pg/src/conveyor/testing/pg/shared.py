"""One server for all processes of a run."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

from conveyor.testing.pg.errors import PostgresUnavailableError
from conveyor.testing.pg.server import Server
from conveyor.testing.pg.sources import SETTINGS, VOLATILE, find


def shared(folder: Path, owner: int) -> Server:
    """The server of all that name the same folder. The first to ask starts it, for the life of `owner`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "server.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists():
            return _read(file)
        try:
            server = find(owner, {**SETTINGS, **VOLATILE}, ours=False)
        except PostgresUnavailableError as error:
            file.write_text(json.dumps({"tried": error.tried}), "utf-8")
            raise
        home = None if server.home is None else str(server.home)
        file.touch(mode=0o600)  # the URL may hold a password
        file.write_text(json.dumps({"source": server.source, "url": server.url, "home": home}), "utf-8")
        return server


def _read(file: Path) -> Server:
    known = json.loads(file.read_text("utf-8"))
    if "tried" in known:
        raise PostgresUnavailableError([(source, reason) for source, reason in known["tried"]])
    home = None if known["home"] is None else Path(known["home"])
    return Server(source=known["source"], url=known["url"], home=home)
