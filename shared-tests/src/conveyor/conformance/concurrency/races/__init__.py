"""Races: many callers at once, over two handles and in several processes. No job twice, none lost."""

from __future__ import annotations

from conveyor.conformance.concurrency.races.adds import AddRaces
from conveyor.conformance.concurrency.races.changes import ChangeRaces
from conveyor.conformance.concurrency.races.claims import ClaimRaces
from conveyor.conformance.concurrency.races.families import FamilyRaces
from conveyor.conformance.concurrency.races.firsts import FirstRaces
from conveyor.conformance.concurrency.races.limits import LimitRaces
from conveyor.conformance.concurrency.races.processes import Processes
from conveyor.conformance.concurrency.races.steps import StepRaces


class AllRaces(ClaimRaces, AddRaces, ChangeRaces, FamilyRaces, LimitRaces, FirstRaces, StepRaces, Processes):
    """Races."""
