from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any

from conveyor.core.store import Claim, Limit, Rate
from conveyor.store.sql import Capacity, FairShare, More, Picks, SubQueue

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def share(count: int, **limits: Any) -> FairShare:
    request = Claim(
        queue="q", count=count, token="t", lease=MINUTE, group_limit=Limit(**limits) if limits else None
    )
    return FairShare(request, NOW, count=count, picks=Picks(7, 0, counted=True))


def subqueue(group: str | None, *seqs: int, ended: bool = True, sort_key: float = 0) -> SubQueue:
    jobs = deque((sort_key, seq) for seq in seqs)
    return SubQueue(group, "work", jobs, jobs[-1], ended=ended)


def test_groups_are_served_by_turns_and_urgent_jobs_first() -> None:
    picks = share(5)
    picks.add(subqueue("a", 1, 2, 3), last_served=3)
    picks.add(subqueue("b", 4), last_served=2)
    picks.add(subqueue(None, 5, 6))
    picks.add(subqueue("a", 7, sort_key=-1), last_served=3)

    assert picks.pick() is None
    assert picks.picked == [(7, "a"), (5, None), (4, "b"), (1, "a"), (6, None)]
    assert Picks(7, 0, counted=True).after(["a", None, "b", "a", None]) == (12, 12, {"a": 11, "b": 10})


def test_what_was_not_read_may_be_more_urgent() -> None:
    picks = share(2)
    picks.add(subqueue("a", 1, ended=False), last_served=3)
    picks.beyond = (0, 2, 9)

    assert picks.pick() == More(None)

    late = subqueue("b", 9, ended=False)
    picks.add(late, last_served=2)
    picks.beyond = None
    assert picks.pick() is None  # each has given one
    assert picks.picked == [(9, "b"), (1, "a")]


def test_more_is_asked_for_of_a_subqueue_that_is_next() -> None:
    picks = share(2)
    one = subqueue("a", 1, ended=False)
    picks.add(one)

    assert picks.pick() == More(one)

    one.jobs.append((0, 2))
    picks.put(one)
    assert picks.pick() is None
    assert [seq for seq, _ in picks.picked] == [1, 2]


def test_a_group_has_as_many_jobs_as_its_limit_lets_be_active() -> None:
    picks = share(9, active=2)
    picks.add(subqueue("a", 1, 2, 3), active=1)

    assert picks.pick() is None
    assert picks.picked == [(1, "a")]
    assert picks.full == {}


def test_a_group_whose_window_is_full_is_throttled_if_its_jobs_are_kept() -> None:
    picks = share(9, rate=Rate(max=2, per=MINUTE))
    picks.windows = {"a": Capacity(2), "b": Capacity(1, NOW + MINUTE / 2), "c": Capacity(0, NOW)}
    for n, group in enumerate("abc"):
        picks.add(subqueue(group, 10 * n, 10 * n + 1, 10 * n + 2))

    assert picks.pick() is None
    assert picks.picked == [(0, "a"), (10, "b"), (1, "a")]
    assert picks.full == {"a": NOW + MINUTE, "b": NOW + MINUTE / 2, "c": NOW}
    assert picks.throttled(["a", "b"]) == {"b": NOW + MINUTE / 2, "c": NOW}
