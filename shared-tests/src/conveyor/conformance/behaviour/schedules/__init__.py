"""Schedules: `every` and `cron` on the store, with a clock that is turned by hand."""

from __future__ import annotations

from conveyor.conformance.behaviour.schedules.keeping import Keeping
from conveyor.conformance.behaviour.schedules.options import Options
from conveyor.conformance.behaviour.schedules.timing import Timing
from conveyor.conformance.concurrency.schedule_races import SchedulesUnderFire


class Schedules(Timing, Options, Keeping, SchedulesUnderFire):
    """Schedules."""
