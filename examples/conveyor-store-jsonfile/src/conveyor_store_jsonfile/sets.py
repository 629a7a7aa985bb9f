"""Sets of jobs: find them, and change them."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from conveyor.core.store import TERMINAL, Change, JobKey, JobRecord, JobState, Order, Where, transitions
from conveyor_store_jsonfile.data import Data

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: What `find` sorts by. A job that has not finished comes after all that have.
ORDERS: dict[Order, Callable[[JobRecord], tuple[Any, ...]]] = {
    Order.ADDED: lambda job: (job.seq,),
    Order.NEWEST: lambda job: (-job.seq,),
    Order.FINISHED: lambda job: (EPOCH - (job.finished_at or EPOCH), -job.seq),
    Order.EARLIEST: lambda job: (job.finished_at is None, job.finished_at or EPOCH, job.seq),
    Order.CLAIM: lambda job: (job.sort_key, -job.seq if job.lifo else job.seq),
}


def matching(data: Data, where: Where, now: datetime) -> Iterator[JobRecord]:
    """The jobs of a set, in the order they were added."""
    expired = _expired(data, now)
    for job in list(data.jobs.values()):
        age = now - (job.finished_at or job.created_at or now)
        if (
            (where.queue is None or job.queue == where.queue)
            and (where.ids is None or job.id in where.ids)
            and (where.states is None or job.state in where.states)
            and (where.names is None or job.name in where.names)
            and (where.group is None or job.group == where.group)
            and (where.parent is None or job.parent == where.parent)
            and (where.unique_key is None or (job.holds_key and job.unique_key == where.unique_key))
            and (where.report is None or job.report == where.report)
            and (where.older_than is None or age >= where.older_than)
            and (not where.expired or job.key in expired)
            and (not where.unretained or _unretained(job))
        ):
            yield job


def alter(data: Data, job: JobRecord, change: Change, now: datetime) -> bool:
    """Do to a job what applies to it, and tell whether anything did."""
    retried = change.retry and job.state in TERMINAL and not _key_is_taken(data, job)
    if retried:
        job = data.put(job, **transitions.retried(job, now))
    fields = transitions.changed(job, change, now)
    data.put(job, **fields)
    return retried or bool(fields)


def _key_is_taken(data: Data, job: JobRecord) -> bool:
    """Whether another job holds the key that this one is to hold again."""
    return transitions.takes_key_again(job) and data.holder(job.queue, job.unique_key) is not None


def _unretained(job: JobRecord) -> bool:
    """Whether a job has finished, and nothing says how long it is kept."""
    return job.state in TERMINAL and job.expires_at is None and job.keep_count is None


def _expired(data: Data, now: datetime) -> set[JobKey]:
    """The jobs whose retention, by age or by count, is over."""
    over, kept = set[JobKey](), Counter[tuple[str, JobState]]()
    for job in sorted(data.jobs.values(), key=ORDERS[Order.FINISHED]):
        if job.expires_at is not None and job.expires_at <= now:
            over.add(job.key)
        if job.keep_count is not None:
            held = job.holds_key and job.unique_until is not None and job.unique_until > now
            if kept[job.queue, job.state] >= job.keep_count and not held:
                over.add(job.key)
            kept[job.queue, job.state] += 1
    return over
