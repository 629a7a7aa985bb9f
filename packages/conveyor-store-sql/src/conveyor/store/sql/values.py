"""Values that mean the same in every SQL store, however it writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from conveyor.core.store import JobState

#: The end of what does not end by itself.
FOREVER: Final = datetime.max.replace(tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
NO_TIME: Final = timedelta(0)
#: What reading a row that is not as it should be may raise.
UNREADABLE: Final = (ValueError, TypeError, KeyError, OverflowError)
STATES: Final = {state.value: state for state in JobState}


def known_state(stored: str) -> JobState:
    """The state that was stored; that of a job that cannot run, for any other text."""
    return STATES.get(stored, JobState.FAILED)


def microseconds(duration: timedelta | None) -> int | None:
    """The duration as it is stored."""
    return None if duration is None else duration // MICROSECOND
