"""Engines that get wrong what a store refuses for good, and what passes."""

from __future__ import annotations

import pytest

from broken.engine import caught_by
from conveyor.core._engine import parent_follow_up as parents_service
from conveyor.core._engine import settler
from conveyor.core._jobs import family_follow_up, refusals
from conveyor.core.errors import StoreError


@caught_by("queue behaviour", "test_an_outcome_that_the_store_refuses_fails_its_job_and_no_other")
@caught_by("queue behaviour", "test_a_report_that_the_store_refuses_keeps_no_lease_from_being_renewed")
@caught_by("queue behaviour", "test_a_schedule_whose_job_the_store_refuses_holds_up_no_other")
@caught_by("queue behaviour", "test_a_parent_whose_end_the_store_refuses_holds_up_no_other")
def repeats_what_is_refused_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every error of a store is its own trouble, and passes."""
    for part in (refusals, settler, family_follow_up, parents_service):
        monkeypatch.setattr(part, "concerns_store", lambda error: isinstance(error, StoreError))


@caught_by("queue behaviour", "test_what_is_wrong_with_the_store_costs_no_outcome")
def gives_up_outcomes_in_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every error of a store is about what it was given."""
    monkeypatch.setattr(refusals, "concerns_store", lambda _: False)
    monkeypatch.setattr(settler, "concerns_store", lambda _: False)
