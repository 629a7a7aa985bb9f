"""Holding jobs by their ids for as long as it takes to decide about them, which is no run of theirs."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.ids import new_token

if TYPE_CHECKING:
    from collections.abc import Collection

    from conveyor.core.store import Claimed, Store

#: For how long a job is held at most by who dies while deciding about it. A decision takes a few calls; what
#: comes later than this is refused by the fence, and has to be made again.
MOMENT: Final = timedelta(seconds=5)


async def hold(store: Store, queue: str, ids: Collection[str], *, lease: timedelta = MOMENT) -> Claimed:
    """Lease exactly these jobs for a moment, whatever is paused; losing them is no stall.

    A worker gives its own `lease`: they are held for that long, or for a moment if that is shorter.
    """
    return await store.take(queue, ids, token=new_token(), lease=min(lease, MOMENT), started=False)
