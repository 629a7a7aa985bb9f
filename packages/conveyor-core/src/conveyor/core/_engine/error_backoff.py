"""What a worker does while its store is in trouble: wait, a little longer each time, and say so once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from conveyor.core import clock as time
from conveyor.core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from conveyor.core.clock import Clock

_log: Final = logging.getLogger("conveyor.worker")
_FIRST: Final = 0.05
_LONGEST: Final = 5.0


class Outage:
    """Counts failures in a row of one kind of call."""

    def __init__(self, what: str, clock: Clock, random: Callable[[], float]) -> None:
        self._what = what
        self._clock = clock
        self._random = random
        self._failures = 0
        #: The kinds of errors that were logged since it last worked.
        self._logged: set[type[Exception]] = set()

    def over(self) -> None:
        """The call works (again)."""
        if self._failures:
            _log.warning("%s works again, after %d failures", self._what, self._failures)
            self._failures = 0
            self._logged.clear()

    def failed(self, error: Exception) -> float:
        """The call failed; returns how many seconds to wait before the next one."""
        expected = isinstance(error, StoreError)
        if not self._failures or (not expected and type(error) not in self._logged):
            level = logging.WARNING if expected else logging.ERROR
            text = "%s fails: %s; trying again until it works"
            _log.log(level, text, self._what, error or repr(error), exc_info=not expected)
        self._logged.add(type(error))
        self._failures += 1
        wait = min(_LONGEST, _FIRST * 2.0 ** min(self._failures - 1, 10))
        return wait * (0.5 + self._random() / 2)

    async def wait(self, error: Exception) -> None:
        """The call failed; returns when it is time for the next one."""
        await time.sleep(self._clock, self.failed(error))
