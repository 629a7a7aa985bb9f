"""What a worker's options must be like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from conveyor.core._engine.handlers import refuse_generator
from conveyor.core.batch import Batch
from conveyor.core.errors import InvalidOptionError, UnsupportedFeatureError
from conveyor.core.job_options import checked_name, whole
from conveyor.core.limits import GroupLimit, RateLimit
from conveyor.core.store import Feature, Limit

if TYPE_CHECKING:
    from collections.abc import Callable

    from conveyor.core.durations import Duration
    from conveyor.core.store import Store


def checked_strategies(
    given: Mapping[str, Callable[[int], Duration]] | None,
) -> dict[str, Callable[[int], Duration]]:
    """The backoff strategies of a worker, by name."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidOptionError(
            "backoff_strategies", given, 'give functions by name: {"slow": lambda failures: 60 * failures}'
        )
    for name, strategy in given.items():
        checked_name(name, "backoff_strategies")
        if not callable(strategy):
            raise InvalidOptionError(
                "backoff_strategies", {name: strategy}, "each is a function of the failures so far"
            )
        refuse_generator(strategy, "backoff_strategies")
    return dict(given)


def checked_batch(batch: object, handler: object) -> Batch | None:
    """How a worker's handler takes its jobs, if not one by one."""
    if batch is None:
        return None
    if not isinstance(batch, Batch):
        raise InvalidOptionError("batch", batch, 'use Batch(100, linger="200ms")')
    if not callable(handler) and batch.by != "name":
        raise InvalidOptionError(
            "batch", batch, 'handlers by name take batches of one name: Batch(size, by="name")'
        )
    return batch


def checked_limit(active: int | None, rate: RateLimit | None, option: str) -> Limit | None:
    """What the store is to keep to; `option` is the one that `active` was given as."""
    if active is not None:
        whole(active, option, least=1)
    if rate is not None and not isinstance(rate, RateLimit):
        raise InvalidOptionError("limiter", rate, 'use RateLimit(100, per="1 minute")')
    if active is None and rate is None:
        return None
    return Limit(active=active, rate=None if rate is None else rate.as_rate())


def checked_group_limit(group: GroupLimit | None) -> Limit | None:
    """What the store is to keep to for each group."""
    if group is None:
        return None
    if not isinstance(group, GroupLimit):
        raise InvalidOptionError("group", group, "use GroupLimit(concurrency=2)")
    return checked_limit(group.concurrency, group.limiter, "group")


def refuse_missing(store: Store, limit: Limit | None, group_limit: Limit | None) -> None:
    """Raise UnsupportedFeatureError if the store does not offer what these limits need."""
    needed = set()
    for one in (limit, group_limit):
        if one is not None and one.active is not None:
            needed.add(Feature.ACTIVE_LIMITS)
        if one is not None and one.rate is not None:
            needed.add(Feature.RATE_LIMITS)
    if group_limit is not None:
        needed.add(Feature.GROUPS)
    for feature in sorted(needed - store.features):
        raise UnsupportedFeatureError(type(store).__name__, feature)
