"""A PgBouncer for tests, as tests see it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from conveyor.core.errors import InvalidOptionError
from conveyor.testing.pg.debian import libraries, unpacked
from conveyor.testing.pg.errors import BouncerUnavailableError, NotUsableError
from conveyor.testing.pg.server import MODES, Mode
from conveyor.testing.pg.supervised import Supervised, supervise

#: What a bouncer of ours is told.
SETTINGS: Final = {"pool_mode": "transaction", "max_client_conn": "1000", "default_pool_size": "20"}
#: Where systems put it without putting it on everybody's PATH.
PLACES: Final = (Path("/usr/sbin"), Path("/usr/local/sbin"), Path("/opt/homebrew/bin"))


@dataclass(frozen=True, kw_only=True)
class Bouncer:
    """A running PgBouncer in front of one server; it serves every database of that."""

    home: Path
    url: str

    def through(self, url: str) -> str:
        """The same database of that server, with the same parameters, through the bouncer."""
        return urlunsplit(urlsplit(url)._replace(netloc=urlsplit(self.url).netloc))

    def stop(self, mode: Mode = "fast") -> None:
        """Stop it: `fast` lets the running transactions end, `immediate` cuts them off."""
        if mode not in MODES:
            raise InvalidOptionError("mode", mode, "one of 'fast' and 'immediate'")
        self._supervised().ask("stop", mode=mode)

    def start(self) -> None:
        """Start it again after a stop, on the same port."""
        self._supervised().ask("start")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze it by SIGSTOP: its clients' connections stay open, and nothing comes back."""
        self._supervised().ask("freeze")
        try:
            yield
        finally:
            self._supervised().ask("thaw")

    def log(self) -> str:
        """What it has logged so far."""
        return (self.home / "pgbouncer.log").read_text("utf-8", "replace")

    def _supervised(self) -> Supervised:
        return Supervised(url=self.url, home=self.home)


@contextmanager
def bouncer(server: str, *, settings: Mapping[str, str] | None = None) -> Iterator[Bouncer]:
    """Run a PgBouncer in transaction mode in front of the server of a `postgresql://` URL.

    It is the system's, or is fetched from Debian without being installed. `settings` are those of its
    configuration file, as in `{"default_pool_size": "2"}`. It ends with the block, or with this process.
    Raises BouncerUnavailableError, which says what to install, if there is none.
    """
    if not server.startswith(("postgresql://", "postgres://")):
        raise InvalidOptionError("server", server.partition(":")[0], "a postgresql:// URL")
    try:
        options = {**_find(), "server": server, "settings": {**SETTINGS, **(settings or {})}}
        running = supervise("bouncer", os.getpid(), options)
    except NotUsableError as reason:
        raise BouncerUnavailableError(str(reason)) from None
    try:
        yield Bouncer(home=running.home, url=running.url)
    finally:
        running.ask("end")


def _find() -> dict[str, str]:
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, PLACES)])
    if found := shutil.which("pgbouncer", path=path):
        program = Path(found).resolve()
        return {"program": str(program), "root": str(program.parent), "libraries": ""}
    try:
        folder = unpacked("pgbouncer", "usr/sbin/pgbouncer")
    except NotUsableError as reason:
        raise NotUsableError(
            f"it is not on PATH, and not in {', '.join(map(str, PLACES))}; {reason}"
        ) from None
    return {
        "program": str(folder / "usr/sbin/pgbouncer"),
        "root": str(folder),
        "libraries": libraries(folder),
    }
