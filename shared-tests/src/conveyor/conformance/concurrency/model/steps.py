"""The steps of a history: each makes, for the world as it is, one call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from itertools import count
from typing import Any

from conveyor.conformance.kit.make import at
from conveyor.core.store import (
    Beat,
    Claim,
    JobKey,
    JobRecord,
    Outcome,
    Release,
    Retention,
    Store,
    Undecodable,
)

QUEUES = ("q", "r")
UNSAID = {"options", "report", "state", "seq", "sort_key", "released"}
_runs = count()


@dataclass
class World:
    """One history under way: the time, and the leases that were ever given."""

    run: int = field(default_factory=lambda: next(_runs))
    second: float = 0.0
    leases: list[JobRecord] = field(default_factory=list)
    claims: int = 0

    @property
    def now(self) -> datetime:
        """The present of this history."""
        return at(self.second)

    def lease(self, number: int) -> JobRecord:
        """One of the leases given, the latest ones first."""
        return self.leases[-1 - number % len(self.leases)]

    def token(self) -> str:
        """A token of its own for the next claim."""
        self.claims += 1
        return f"run-{self.run}-claim-{self.claims}"


#: One step of a history: makes, for the world as it is, a call that is then made of both stores.
Call = Callable[[Store], Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call of a history, with arguments that fit any world."""

    method: str
    values: Mapping[str, Any]

    def call(self, world: World) -> Call | None:
        """The call it makes in this world; None if it makes none there."""
        makers: dict[str, Callable[[World, dict[str, Any]], Call | None]] = {
            "tick": _tick,
            "lapse": _lapse,
            "claim": _claim,
            "take": _take,
            "renew": _renew,
            "settle": _settle,
        }
        maker = makers.get(self.method, self._plainly)
        return maker(world, dict(self.values))

    def _plainly(self, world: World, values: dict[str, Any]) -> Call:
        arguments = values.pop("arguments", ())
        now = world.now
        return lambda store: getattr(store, self.method)(*arguments, **values, now=now)

    def __str__(self) -> str:
        values = dict(self.values)
        arguments = [as_code(value) for value in values.pop("arguments", ())]
        options = [f"{key}={as_code(value)}" for key, value in values.items() if value not in (None, False)]
        return f"{self.method}({', '.join([*arguments, *options])})"


def as_code(value: Any) -> str:  # noqa: PLR0911 - one for each kind
    """A value of a step, what goes without saying left out."""
    match value:
        case JobKey():
            return f"{value.queue}/{value.id}"
        case Enum():
            return value.name
        case datetime():
            return f"at({(value - at(0)).total_seconds():g})"
        case timedelta():
            return f"{value.total_seconds():g}s"
        case list() | tuple() | set() | frozenset():
            return f"[{', '.join(map(as_code, value))}]"
        case dict():
            return f"({', '.join(f'{k}={as_code(v)}' for k, v in value.items() if v not in (None, ()))})"
        case _ if is_dataclass(value):
            given = [(f.name, getattr(value, f.name)) for f in fields(value) if f.name not in UNSAID]
            shown_ones = [f"{name}={as_code(one)}" for name, one in given if one not in (None, False, (), 0)]
            return f"{type(value).__name__}({', '.join(shown_ones)})"
        case _:
            return repr(value)


def _tick(world: World, values: dict[str, Any]) -> None:
    world.second += values["seconds"]


def _lapse(world: World, values: dict[str, Any]) -> Call:
    world.second += values["seconds"]
    now = world.now
    return lambda store: store.advance(set(QUEUES), now=now)


def _claim(world: World, values: dict[str, Any]) -> Call:
    request = Claim(token=world.token(), worker="w", **values)
    now = world.now
    return lambda store: store.claim(request, now=now)


def _take(world: World, values: dict[str, Any]) -> Call:
    token, now = world.token(), world.now
    return lambda store: store.take(token=token, worker="w", now=now, **values)


def _renew(world: World, values: dict[str, Any]) -> Call | None:
    if not world.leases:
        return None
    beats = [
        Beat(lease=world.lease(number).lease, report=report, payload=payload, started=started)
        for number, report, payload, started in values["beats"]
    ]
    now = world.now
    return lambda store: store.renew(beats, values["lease"], now=now)


def _settle(world: World, values: dict[str, Any]) -> Call | None:
    if not world.leases:
        return None
    outcomes = [_outcome(world, **one) for one in values["outcomes"]]
    now = world.now
    return lambda store: store.settle(outcomes, now=now)


def _outcome(  # noqa: PLR0911 - one for each kind
    world: World,
    *,
    lease: int,
    kind: str,
    release: Release,
    retention: Retention | None,
    delay: timedelta | None,
    spawn: tuple[JobRecord, ...],
) -> Outcome:
    held = world.lease(lease)
    report = f'"{kind}"'
    match kind:
        case "completed":
            return Outcome.completed(held, report, retention=retention, spawn=spawn)
        case "failed":
            return Outcome.failed(held, report, release=release, retention=retention, spawn=spawn)
        case "cancelled":
            return Outcome.cancelled(held, report, release=release, retention=retention)
        case "retried":
            return Outcome.retry(held, report, delay=delay or timedelta(0))
        case "snoozed":
            return Outcome.snoozed(held, report, delay=delay, spawn=spawn)
        case "stalled":
            return Outcome.stalled(held, report)
        case "snoozed until":
            return Outcome.snoozed(held, report, run_at=at(10 * round(world.second / 10)))
        case "awaiting":
            children = tuple(replace(one, parent=held.key) for one in spawn if one.id < held.id)
            return Outcome.awaiting(held, report, children=children)
        case "unreadable":
            return Outcome.unreadable(
                Undecodable(lease=held.lease, attempt=held.attempt, reason="unreadable"), report
            )
        case _:
            return Outcome.given_back(held)
