"""The answers of two stores, so that they can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from conveyor.conformance.concurrency.model.steps import Call
from conveyor.core.errors import GroupFullError
from conveyor.core.store import (
    Advanced,
    Claimed,
    Deleted,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Renewed,
    Settled,
    Store,
)


def shown(answer: Any) -> Any:  # noqa: C901, PLR0911 - one for each kind
    """An answer so that two stores' can be compared: sets as sets, documents as what they say, no `seq`."""
    match answer:
        case JobRecord():
            values = {f.name: getattr(answer, f.name) for f in fields(answer)}
            for name in ("payload", "options", "report"):
                values[name] = json.loads(values[name])
            values.pop("seq")
            values["sort_key"] = round(values["sort_key"], 6)
            return {name: value for name, value in values.items() if value not in (None, False, 0)}
        case Claimed():
            jobs = [shown(held) for held in answer.jobs]
            return {"jobs": jobs, "now": answer.now, "cut_short": answer.cut_short}
        case Settled():
            return {
                "applied": set(answer.applied),
                "released": sorted(answer.released),
                "spawned": shown(answer.spawned),
                "removed": sorted(answer.removed),
            }
        case Deleted():
            return {"removed": list(answer.removed), "released": sorted(answer.released)}
        case [JobKey(), *_]:
            return sorted(answer)
        case Advanced():
            return {name: sorted(getattr(answer, name)) for name in ("due", "stalled", "unstarted")}
        case Inserted():
            return (answer.key, answer.created, answer.created_at, answer.state)
        case Renewed():
            return {name: set(getattr(answer, name)) for name in ("held", "lost", "cancelled")}
        case frozenset() | Mapping():
            return answer
        case list() | tuple():
            return [shown(one) for one in answer]
        case _:
            return answer


async def asked(store: Store, call: Call) -> Any:
    """What a store answers, a refusal included."""
    try:
        return await call(store)
    except GroupFullError as error:
        return (error.queue_name, error.group, error.max_size)


def without_states_of_the_uncreated(answer: Any, there: set[JobKey]) -> Any:
    """An answer to insert, the states of jobs that were not created and do not exist left out.

    What the state of such a job would have been is of no use to anybody.
    """
    match answer:
        case Settled():
            return replace(answer, spawned=without_states_of_the_uncreated(answer.spawned, there))
        case [Inserted(), *_]:
            return [
                replace(one, state=JobState.WAITING) if not one.created and one.key not in there else one
                for one in answer
            ]
        case _:
            return answer
