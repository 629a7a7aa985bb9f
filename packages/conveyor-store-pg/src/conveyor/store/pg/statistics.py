"""Have the server analyse the tables as they fill, before autovacuum comes round to it."""

from __future__ import annotations

import logging
import math
from typing import Final

from conveyor.core.errors import StoreError
from conveyor.store.pg.connections import Connections
from conveyor.store.pg.statements import Session

log: Final = logging.getLogger("conveyor.store.pg")

#: So many jobs added by one store are worth a look; then ten times as many, until autovacuum has surely come.
_FIRST: Final = 1_000
_LAST: Final = 100_000


class Statistics:
    """Looks, as jobs are added, whether the server knows of about as many.

    Without statistics all indexes of a table look alike to it. With 30,000 groups in a fresh table, it read
    all that waits for the first job of each sub-queue, and a bulk add took minutes (test_pg_fresh_tables.py).
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._added = 0
        self._next: float = _FIRST

    async def added(self, count: int) -> None:
        """Note that so many jobs were added. Raises nothing: they are there, whatever becomes of this."""
        self._added += count
        if self._added < self._next:
            return
        self._next = self._added * 10 if self._added < _LAST else math.inf
        try:
            if await self._connections.call(self._behind, single=True, reads=True):
                await self._connections.call(_analyze, single=True)
        except StoreError as error:
            log.debug("the tables could not be analysed: %s", error)
        except Exception:
            log.exception("the tables could not be analysed")

    async def _behind(self, session: Session) -> bool:
        rows = await session.ask("estimate_jobs", schema=self._connections.options.schema)
        return any(known < self._added / 2 for (known,) in rows)


async def _analyze(session: Session) -> int:
    return await session.run("analyze")
