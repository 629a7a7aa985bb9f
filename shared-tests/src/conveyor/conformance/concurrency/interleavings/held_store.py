"""A store of which one call is held while something else happens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from conveyor.conformance.kit.bench import until
from conveyor.core.errors import StoreUnavailableError
from conveyor.core.store import Beat, Claim, JobRecord, Outcome, Store, Where
from conveyor.core.testing import WrappedStore


class HeldStore(WrappedStore):
    """A store of which one call for a queue is held, at its start or at its end; it may be away, too."""

    def __init__(self, store: Store, queue: str, method: str, number: int, phase: str) -> None:
        """Hold call number `number` of `method` for `queue`."""
        super().__init__(store)
        self._queue = queue
        self._method = method
        self._left = number
        self._phase = phase
        self.reached = asyncio.Event()
        self.let_go = asyncio.Event()
        self.away = False
        #: Answers given so far, by method.
        self.answered: Counter[str] = Counter()

    async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        held = method == self._method and any(self._queue in queues_of(given) for given in args)
        self._left -= held
        held = held and self._left == 0
        if held and self._phase == "start":
            await self._hold()
        self._fail_if_away()
        answer = await super()._pass_on(method, *args, **kwargs)
        if held and self._phase == "end":
            await self._hold()
            self._fail_if_away()
        self.answered[method] += 1
        return answer

    def has_answered(self, method: str, times: int) -> bool:
        """Whether it has, at least that often."""
        return self.answered[method] >= times

    async def _hold(self) -> None:
        self.reached.set()
        await self.let_go.wait()

    def _fail_if_away(self) -> None:
        if self.away:
            raise StoreUnavailableError("away", outcome_unknown=True)


def queues_of(given: object) -> set[str]:
    """The queues that an argument of a call is about."""
    match given:
        case str():
            return {given}
        case Claim() | JobRecord():
            return {given.queue}
        case Where():
            return {given.queue or "", given.parent.queue if given.parent else ""}
        case Beat() | Outcome():
            return {given.lease.queue}
        case Collection():
            return {queue for one in given for queue in queues_of(one)}
        case _:
            return set()


async def until_true(check: Callable[[], bool]) -> None:
    """Return when this is true, looking again and again."""

    async def true() -> bool:
        return check()

    await until(true)
