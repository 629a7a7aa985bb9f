"""How long a worker waits while its store is in trouble: a little longer each time, logged once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from conveyor.core import clock as time
from conveyor.core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from conveyor.core.clock import Clock

_log: Final = logging.getLogger("conveyor.worker")
_FIRST: Final = 0.05
_LONGEST: Final = 5.0


@dataclass(slots=True)
class ErrorBackoff:
    """Counts the failures in a row of one kind of call; `what` is how the log names it."""

    what: str
    clock: Clock
    random: Callable[[], float]
    _failures: int = field(init=False, default=0)
    #: The kinds of errors that were logged since it last worked.
    _logged: set[type[Exception]] = field(init=False, default_factory=set)

    def succeeded(self) -> None:
        """Begin anew: the call works (again)."""
        if self._failures:
            _log.warning("%s works again, after %d failures", self.what, self._failures)
            self._failures = 0
            self._logged.clear()

    def failed(self, error: Exception) -> float:
        """Count a failure, and return how many seconds to wait before the next call."""
        expected = isinstance(error, StoreError)
        if not self._failures or (not expected and type(error) not in self._logged):
            level = logging.WARNING if expected else logging.ERROR
            text = "%s fails: %s; trying again until it works"
            _log.log(level, text, self.what, error or repr(error), exc_info=not expected)
        self._logged.add(type(error))
        self._failures += 1
        wait = min(_LONGEST, _FIRST * 2.0 ** min(self._failures - 1, 10))
        return wait * (0.5 + self.random() / 2)

    async def wait(self, error: Exception) -> None:
        """Count a failure, and return when it is time for the next call."""
        await time.sleep(self.clock, self.failed(error))
