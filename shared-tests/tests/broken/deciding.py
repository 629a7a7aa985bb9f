"""Engines that get wrong how jobs are held to be decided about."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from broken.engine import caught_by
from conveyor.core._jobs import family_follow_up, short_leases
from conveyor.core._jobs.ids import new_token

if TYPE_CHECKING:
    from collections.abc import Collection

    from conveyor.core.store import Claimed, Store


@caught_by("flow behaviour", "test_a_worker_that_dies_while_a_parent_is_decided_charges_it_nothing")
def charges_for_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parents are held, to be decided about, as if they ran."""

    async def run(store: Store, queue: str, ids: Collection[str], *, lease: timedelta) -> Claimed:
        return await store.take(
            queue, ids, token=new_token(), lease=min(lease, short_leases.MOMENT), started=True
        )

    monkeypatch.setattr(family_follow_up, "hold", run)


@caught_by("queue behaviour", "test_a_call_that_dies_at_any_moment_holds_no_job_for_long")
def holds_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held by its id, to be decided about, is held for half a minute."""
    monkeypatch.setattr(short_leases, "MOMENT", timedelta(seconds=30))
    monkeypatch.setattr(short_leases.hold, "__kwdefaults__", {"lease": timedelta(seconds=30)})


@caught_by("flow behaviour", "test_a_decision_that_came_too_late_is_made_again")
def forgets_what_it_was_too_late_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What became of a parent counts as decided, applied or not."""
    run = family_follow_up.FollowUp.run

    async def decide_once(self: family_follow_up.FollowUp, *args: Any, **lease: Any) -> Any:
        decided = list(self.undecided)
        refused = await run(self, *args, **lease)
        for key in decided:
            self.undecided.pop(key, None)
        return refused

    monkeypatch.setattr(family_follow_up.FollowUp, "run", decide_once)
