"""Which test proves which feature, in the words of who chooses a queue: the README's matrix is made of it.

A row names the one test to read. It is a reference and no string, so that a test that is gone cannot be
named; `shared-tests/tests/test_proofs.py` runs the rows on each of our stores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any, Final

from conveyor.conformance.suite import StoreContract as Suite
from conveyor.core.store import Feature

Test = Callable[..., Any]

PROOFS: Final[dict[str, Test]] = {
    "delayed jobs": Suite.test_a_delayed_job_runs_when_it_is_due,
    "priorities, and order within one": Suite.test_jobs_run_by_priority_and_then_in_order,
    "`lifo` jobs": Suite.test_lifo_jobs_go_ahead_of_their_priority_newest_first,
    "ageing": Suite.test_no_job_waits_longer_than_its_priority_in_periods,
    "bulk adds in one step": Suite.test_a_bulk_is_added_in_order_and_read_in_order,
    "ids of your own": Suite.test_an_id_that_exists_returns_that_job_unchanged_whatever_its_state,
    "typed payloads": Suite.test_typed_data_comes_back_typed,
    "retries with back-off": Suite.test_a_failed_job_runs_again_exactly_after_its_backoff,
    "handlers that snooze": Suite.test_a_snoozed_job_runs_later_and_has_used_no_attempt,
    "timeouts": Suite.test_a_timeout_cancels_the_run_before_there_is_another,
    "cancelling what runs": Suite.test_a_running_job_is_cancelled_from_anywhere_within_a_second_or_so,
    "progress, logs, attempt history": Suite.test_progress_logs_and_history_are_kept_with_the_job,
    "plain functions in threads": Suite.test_a_plain_function_runs_in_a_thread_and_talks_to_the_store,
    "plain functions in processes": Suite.test_however_a_run_ends_it_ends_so_on_each_executor,
    "waiting for a result": Suite.test_a_result_is_waited_for,
    "removal of finished jobs": Suite.test_finished_jobs_are_removed_when_their_time_is_over,
    "finished jobs go by default, in time": (
        Suite.test_by_default_finished_jobs_are_kept_a_day_and_failed_ones_a_fortnight
    ),
    "pausing a queue": Suite.test_a_paused_queue_starts_nothing_until_it_is_resumed,
    "pausing a name": Suite.test_a_paused_name_is_left_and_others_go_on,
    "pausing a group": Suite.test_a_paused_group_is_left_and_others_go_on,
    "drain, clean, obliterate": Suite.test_obliterate_leaves_no_trace_and_spares_running_jobs_unless_forced,
    "flows, of any size in one step": Suite.test_ten_thousand_jobs_are_added_in_one_step_however_deep,
    "flows: `fail`, `ignore` and `remove`, whatever a child's end": (
        Suite.test_every_ending_of_a_child_under_every_policy_on_three_levels
    ),
    "flows: children added by a handler": (Suite.test_a_job_runs_again_when_the_children_it_added_have_ended),
    "flows: a retried child reopens parents": Suite.test_retrying_a_failed_child_reopens_what_failed_for_it,
    "flows: no crash leaves a parent stuck": Suite.test_a_worker_that_dies_at_any_call_leaves_no_parent_stuck,
    "schedules: `every`": Suite.test_every_keeps_to_its_anchor_however_late_it_is_looked_at,
    "schedules: `cron`, in any zone": Suite.test_cron_goes_by_the_wall_clock_of_its_zone,
    "schedules: overlap": Suite.test_overlap_skip_makes_no_job_while_the_one_before_is_unfinished,
    "schedules: misfires": Suite.test_what_becomes_of_runs_that_no_worker_was_there_for,
    "schedules: one job for one run, with many workers": Suite.test_many_workers_make_one_job_for_each_run,
    "groups in turns": Suite.test_the_groups_of_a_worker_take_turns,
    "groups: concurrency of each": Suite.test_workers_keep_to_the_limit_of_each_group,
    "groups: rate of each": Suite.test_each_group_has_its_own_rate,
    "groups: `max_size`": Suite.test_many_bulks_at_once_fill_a_group_and_never_more,
    "global concurrency, exact": Suite.test_workers_on_two_handles_keep_to_the_limit_and_use_it,
    "rate limits, exact in every window": Suite.test_workers_start_no_more_in_any_window_than_the_rate,
    "`RateLimited` from a handler": Suite.test_rate_limited_pauses_the_queue_for_everybody_for_that_long,
    "batches": Suite.test_a_handler_gets_the_jobs_in_order_and_returns_their_results,
    "batches: each job's own end": Suite.test_an_exception_in_the_place_of_a_result_fails_that_job_alone,
    "one job for a key, until it ends": Suite.test_without_a_time_a_key_is_held_until_the_job_has_finished,
    "one job for a key, for a time": (
        Suite.test_with_a_time_a_key_is_held_for_exactly_that_long_finished_or_not
    ),
    "one job for a key: replace": Suite.test_replace_gives_the_waiting_job_the_new_data_and_delay,
    "one job for a key: debounce": (
        Suite.test_a_job_that_is_put_off_again_and_again_runs_once_when_things_are_quiet
    ),
    "dead letters": Suite.test_a_job_that_fails_for_good_is_added_to_its_dead_letter_queue,
    "dead letters: sent back": (Suite.test_a_job_goes_back_with_its_data_its_options_and_all_its_attempts),
    "why a job is not running": Suite.test_the_place_in_line_is_that_of_claims,
    "worker registry": Suite.test_a_worker_is_registered_from_its_start_until_it_is_closed,
    "a dead worker's jobs run again": Suite.test_a_job_whose_worker_died_runs_again_and_has_used_no_attempt,
    "exactly one outcome is accepted": Suite.test_every_job_is_accepted_as_finished_exactly_once,
    "a call is all or nothing": Suite.test_a_call_cancelled_at_any_await_happened_wholly_or_not_at_all,
    "events": Suite.test_a_queues_events_follow_a_jobs_life,
    "events from other processes": Suite.test_an_event_reaches_another_handle_as_it_was_published,
    "jobs outlive the process": Suite.test_data_survives_reopening,
    "several processes": Suite.test_processes_claim_every_job_once,
}


def needed(test: Test) -> frozenset[Feature]:
    """The features without which the suite does not run a test."""
    needs: frozenset[Feature] = getattr(test, "conveyor_needs", frozenset())
    wants_peer = "peer" in inspect.signature(test).parameters
    return needs | {Feature.MULTI_PROCESS} if wants_peer else needs


def proved(test: Test, offered: Collection[Feature]) -> bool:
    """Whether a test runs on a store with these features."""
    return needed(test) <= frozenset(offered)
