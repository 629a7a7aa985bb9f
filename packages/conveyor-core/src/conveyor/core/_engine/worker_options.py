"""A worker's options, checked, in the form in which its parts need them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from conveyor.core._engine.handlers import Payloads, Results, checked_handler, payloads_of, results_of
from conveyor.core._engine.option_checks import (
    checked_batch,
    checked_group_limit,
    checked_limit,
    refuse_missing,
)
from conveyor.core._engine.processes.process_options import ProcessOptions, plan_of
from conveyor.core._jobs.ids import new_token
from conveyor.core.durations import duration
from conveyor.core.errors import InvalidOptionError
from conveyor.core.job_options import flag, whole
from conveyor.core.store import Claim, Stalled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from conveyor.core.batch import Batch
    from conveyor.core.durations import Duration
    from conveyor.core.limits import GroupLimit, RateLimit
    from conveyor.core.store import Limit, Store

_SHORT_LEASE: Final = timedelta(seconds=10)
_MOST: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """A worker's handlers, the types of what they take and return, and where they run."""

    handler: Callable[[Any], object] | Mapping[str, Callable[[Any], object]]
    batch: Batch | None
    payloads: Payloads
    results: Results
    max_payload_bytes: int
    concurrency: int
    #: None: plain functions run in threads.
    processes: ProcessOptions | None
    #: What the processes receive when they start.
    plan: dict[str, Any]

    @classmethod
    def of(
        cls,
        handler: object,
        batch: object,
        *,
        kinds: tuple[Any, Any],
        most: tuple[int, int],
        processes: ProcessOptions | None,
        concurrency: int | None,
    ) -> Self:
        """What these options mean; `kinds` are the types of data and results, `most` the bytes of each.

        Raises InvalidOptionError for an option that cannot be used.
        """
        checked, batched, (payload, result) = checked_handler(handler), batch is not None, kinds
        max_payload_bytes, max_result_bytes = (
            whole(bytes_, option, least=1)
            for bytes_, option in zip(most, ("max_payload_bytes", "max_result_bytes"), strict=True)
        )
        if concurrency is None:
            concurrency = 1 if processes is None else processes.count
        return cls(
            handler=checked,
            batch=checked_batch(batch, checked),
            payloads=payloads_of(checked, payload),
            results=results_of(checked, result, batched=batched, max_bytes=max_result_bytes),
            max_payload_bytes=max_payload_bytes,
            concurrency=whole(concurrency, "concurrency", least=1, most=_MOST),
            processes=processes,
            plan={}
            if processes is None
            else plan_of(
                checked,
                payload=payload,
                result=result,
                batched=batched,
                max_payload_bytes=max_payload_bytes,
                max_result_bytes=max_result_bytes,
            ),
        )

    @property
    def names(self) -> frozenset[str] | None:
        """The job names that there are handlers for; None: there is one for any."""
        return None if callable(self.handler) else frozenset(self.handler)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits that a worker was given, and what the store is to keep to."""

    max_global_concurrency: int | None
    limiter: RateLimit | None
    group: GroupLimit | None
    limit: Limit | None
    group_limit: Limit | None

    @classmethod
    def of(
        cls,
        store: Store,
        max_global_concurrency: int | None,
        limiter: RateLimit | None,
        group: GroupLimit | None,
    ) -> Self:
        """What these options mean. Raises UnsupportedFeatureError if the store cannot keep to them."""
        limit = checked_limit(max_global_concurrency, limiter, "max_global_concurrency")
        group_limit = checked_group_limit(group)
        refuse_missing(store, limit, group_limit)
        return cls(
            max_global_concurrency=max_global_concurrency,
            limiter=limiter,
            group=group,
            limit=limit,
            group_limit=group_limit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a worker claims, as its options say. Durations in seconds, for its own waiting."""

    claim: Claim
    max_stalled: int
    stalled_interval: float
    poll_interval: float
    #: Jobs claimed ahead: a fixed number, or None for as many as the handlers' speed suggests.
    prefetch: int | None
    batch: Batch | None = None

    @property
    def limited(self) -> bool:
        """Whether a limit binds the claims."""
        return self.claim.limit is not None or self.claim.group_limit is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """How long a worker leases jobs, and after how many seconds it looks for what."""

    lease: timedelta
    stalled_interval: float
    poll_interval: float
    maintenance_interval: float

    @classmethod
    def of(
        cls,
        lock_duration: Duration,
        stalled_interval: Duration,
        poll_interval: Duration,
        maintenance_interval: Duration,
    ) -> Self:
        """What these options mean. Warns, where the worker is made, of a lease that is short."""
        lease = duration(lock_duration, "lock_duration", zero=False)
        if lease < _SHORT_LEASE:
            warnings.warn(
                f"lock_duration={lock_duration!r} is short: what blocks the loop for that long loses its job",
                stacklevel=3,
            )
        return cls(
            lease=lease,
            stalled_interval=duration(stalled_interval, "stalled_interval", zero=False).total_seconds(),
            poll_interval=duration(poll_interval, "poll_interval", zero=False).total_seconds(),
            maintenance_interval=duration(
                maintenance_interval, "maintenance_interval", zero=False
            ).total_seconds(),
        )


def checked_prefetch(
    prefetch: int | None, batch: Batch | None, limits: Limits, max_stalled: int
) -> int | None:
    """How many jobs are claimed ahead; None: as many as the handlers' speed suggests."""
    limited = limits.limit is not None or limits.group_limit is not None
    if prefetch is not None:
        whole(prefetch, "prefetch", least=0, most=_MOST)
    whole(max_stalled, "max_stalled", least=0)
    for forbids, why in (
        (batch is not None, "with a batch it is 0: a claim brings a whole batch"),
        (limited, "with a limit it is 0: a claim is a start"),
        (max_stalled == 0, "with max_stalled=0 it is 0: no job may stall unrun"),
    ):
        if forbids and prefetch:
            raise InvalidOptionError("prefetch", prefetch, why)
        if forbids:
            return 0
    return prefetch


def rules_of(
    queue: str,
    worker: str,
    handling: Handling,
    limits: Limits,
    timing: Intervals,
    *,
    max_stalled: int,
    prefetch: int | None,
    lifo: bool,
) -> Rules:
    """How a worker of these options claims. Raises InvalidOptionError for one that cannot be used."""
    ahead = checked_prefetch(prefetch, handling.batch, limits, max_stalled)
    return Rules(
        claim=Claim(
            queue=queue,
            count=1,
            token=new_token(),
            lease=timing.lease,
            worker=worker,
            newest_first=flag(lifo, "lifo"),
            names=handling.names,
            limit=limits.limit,
            group_limit=limits.group_limit,
            started=max_stalled > 0,
            stalled=Stalled.LEFT,
        ),
        max_stalled=max_stalled,
        stalled_interval=timing.stalled_interval,
        poll_interval=timing.poll_interval,
        prefetch=ahead,
        batch=handling.batch,
    )
