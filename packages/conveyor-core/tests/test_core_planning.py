"""What an insert makes of the jobs of a call, before anything is written."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from conveyor.core.errors import GroupFullError
from conveyor.core.store import (
    Inserted,
    InsertPlan,
    JobKey,
    JobRecord,
    JobState,
    check_groups,
    group_growth,
    initial_state,
    new_row,
    plan_insert,
)

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
BEFORE = NOW - timedelta(days=1)
MINUTE = timedelta(minutes=1)


def job(
    id: str, *, parent: str | None = None, key: str | None = None, group: str | None = None, most: int = 2
) -> JobRecord:
    return JobRecord(
        queue="q",
        id=id,
        name="work",
        parent=None if parent is None else JobKey("q", parent),
        unique_key=key,
        group=group,
        group_max_size=None if group is None else most,
    )


def stored(id: str, state: JobState = JobState.ACTIVE) -> Inserted:
    return Inserted(key=JobKey("q", id), created=False, state=state, created_at=BEFORE)


def created(plan: InsertPlan) -> list[str]:
    return [job.id for job, _ in plan.created]


def answers(plan: InsertPlan) -> list[tuple[str, bool]]:
    return [(answer.key.id, answer.created) for answer in plan.answers]


# ----------------------------------------------------------------- beginning


@pytest.mark.parametrize(
    ("delay", "run_at", "state", "due"),
    [
        (None, None, JobState.WAITING, None),
        (timedelta(0), None, JobState.WAITING, None),
        (MINUTE, None, JobState.DELAYED, NOW + MINUTE),
        (None, NOW, JobState.WAITING, None),
        (None, BEFORE, JobState.WAITING, None),
        (None, NOW + MINUTE, JobState.DELAYED, NOW + MINUTE),
    ],
)
def test_a_job_begins_delayed_if_its_time_is_to_come(
    delay: timedelta | None, run_at: datetime | None, state: JobState, due: datetime | None
) -> None:
    initial = initial_state(JobRecord(queue="q", id="a", name="work", delay=delay, run_at=run_at), NOW)

    assert (initial.state, initial.run_at, initial.delay, initial.pending) == (state, due, None, 0)


def test_a_job_with_children_keeps_its_times_for_their_end() -> None:
    later = JobRecord(queue="q", id="a", name="work", delay=MINUTE)
    at = JobRecord(queue="q", id="a", name="work", run_at=BEFORE)

    waits, waits_too = initial_state(later, NOW, children=2), initial_state(at, NOW, children=1)

    assert (waits.state, waits.delay, waits.run_at, waits.pending) == ("waiting-children", MINUTE, None, 2)
    assert (waits_too.state, waits_too.delay, waits_too.run_at) == ("waiting-children", None, BEFORE)


def test_sort_key_is_the_priority_and_with_ageing_the_time_as_well() -> None:
    plain = JobRecord(queue="q", id="a", name="work", priority=3)
    ageing = JobRecord(queue="q", id="a", name="work", priority=3, ageing=MINUTE)

    assert initial_state(plain, NOW).sort_key == 3.0
    assert initial_state(ageing, NOW).sort_key == 3 + NOW.timestamp() / 60
    assert initial_state(ageing, NOW + MINUTE).sort_key == initial_state(ageing, NOW).sort_key + 1


def test_a_key_for_a_time_is_held_from_now() -> None:
    held = JobRecord(queue="q", id="a", name="work", unique_key="k", unique_for=MINUTE)

    assert initial_state(held, NOW).unique_until == NOW + MINUTE
    assert initial_state(job("a", key="k"), NOW).unique_until is None


# ------------------------------------------------------------------- planned


def test_new_jobs_are_created_in_order() -> None:
    plan = plan_insert([job("b"), job("a")], {}, NOW)

    assert created(plan) == ["b", "a"]
    assert plan.answers == [
        Inserted(key=JobKey("q", id), created=True, state=JobState.WAITING, created_at=NOW) for id in "ba"
    ]
    assert plan.parents == frozenset()


def test_a_job_that_is_there_stands_for_the_one_given() -> None:
    plan = plan_insert([job("a"), job("b", key="k"), job("c")], {0: stored("a"), 1: stored("z")}, NOW)

    assert created(plan) == ["c"]
    assert plan.answers[:2] == [stored("a"), stored("z")]


def test_the_first_of_an_id_or_a_key_in_one_call_stands_for_the_others() -> None:
    plan = plan_insert([job("a", key="k"), job("b", key="k"), job("a"), job("c", key="l")], {}, NOW)

    assert created(plan) == ["a", "c"]
    assert answers(plan) == [("a", True), ("a", False), ("a", False), ("c", True)]


def test_an_id_of_the_call_goes_before_a_key_of_the_store() -> None:
    plan = plan_insert([job("a"), job("a", key="k")], {1: stored("z")}, NOW)

    assert answers(plan) == [("a", True), ("a", False)]


def test_keys_and_ids_of_other_queues_are_others() -> None:
    other = JobRecord(queue="r", id="a", name="work", unique_key="k")

    assert len(plan_insert([job("a", key="k"), other], {}, NOW).created) == 2


def test_a_parent_waits_for_the_children_that_are_created() -> None:
    call = [job("kid", parent="top"), job("known", parent="top"), job("twin", parent="top"), job("top")]

    plan = plan_insert(call, {1: stored("known")}, NOW)

    [(_, initial)] = [(one, initial) for one, initial in plan.created if one.id == "top"]
    assert (initial.state, initial.pending) == (JobState.WAITING_CHILDREN, 2)
    assert plan.parents == frozenset()


def test_parents_outside_of_the_call_are_named() -> None:
    plan = plan_insert([job("a", parent="x"), job("b", parent="y"), job("c")], {1: stored("b")}, NOW)

    assert plan.parents == {JobKey("q", "x")}


def test_what_hangs_on_a_job_that_is_not_created_is_not_created_either() -> None:
    call = [job("leaf", parent="kid"), job("kid", parent="top"), job("top", key="k"), job("apart")]

    plan = plan_insert(call, {2: stored("holder")}, NOW)

    assert created(plan) == ["apart"]
    assert answers(plan) == [("leaf", False), ("kid", False), ("holder", False), ("apart", True)]


def test_a_job_left_out_makes_room_for_another_of_its_key() -> None:
    call = [job("kid", parent="top", key="k"), job("other", key="k"), job("top")]

    plan = plan_insert(call, {2: stored("top")}, NOW)

    assert created(plan) == ["other"]
    assert answers(plan) == [("kid", False), ("other", True), ("top", False)]


@pytest.mark.parametrize("there", [{}, {1: stored("b")}], ids=["twice in the call", "in the store"])
def test_new_only_refuses_all_if_an_id_is_taken(there: dict[int, Inserted]) -> None:
    call = [job("a"), job("b")] if there else [job("a"), job("a")]

    plan = plan_insert(call, there, NOW, new_only=True)

    assert created(plan) == []
    assert [answer.created for answer in plan.answers] == [False, False]
    assert plan.answers[0].created_at == NOW


def test_new_only_does_not_mind_a_key_that_is_held() -> None:
    plan = plan_insert([job("a", key="k"), job("b")], {0: stored("z")}, NOW, new_only=True)

    assert answers(plan) == [("z", False), ("b", True)]


def test_new_only_refused_tells_of_ids_only() -> None:
    plan = plan_insert([job("a", key="k"), job("b")], {0: stored("z"), 1: stored("b")}, NOW, new_only=True)

    assert answers(plan) == [("a", False), ("b", False)]
    assert plan.answers[1] == stored("b")


# -------------------------------------------------------------------- groups


def test_in_line_are_those_that_wait_or_are_delayed() -> None:
    new = [
        (job("a", group="g"), JobState.WAITING),
        (job("b", group="g"), JobState.DELAYED),
        (job("c", group="g"), JobState.WAITING_CHILDREN),
        (job("d"), JobState.WAITING),
    ]

    assert group_growth(new) == {("q", "g"): 2}


def test_a_group_takes_as_many_as_each_job_allows() -> None:
    new = [(job(id, group="g", most=most), JobState.WAITING) for id, most in (("a", 3), ("b", 3))]

    check_groups(new, {("q", "g"): 1})
    check_groups([*new, (job("c", group="g", most=1), JobState.WAITING_CHILDREN)], {})
    with pytest.raises(GroupFullError) as refused:
        check_groups(new, {("q", "g"): 2})

    assert (refused.value.group, refused.value.max_size) == ("g", 3)


def test_a_new_row_is_what_was_given_and_how_it_begins() -> None:
    given = replace(job("a", key="k", group="g"), ageing=MINUTE, unique_for=MINUTE, lifo=True)
    initial = initial_state(given, NOW)

    row = new_row(given, initial, NOW, released=True)

    begun = replace(given, **initial._asdict(), holds_key=True, released=True, created_at=NOW, seq=7)
    assert JobRecord(**row, seq=7) == begun
