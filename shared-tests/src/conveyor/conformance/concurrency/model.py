"""The model: random histories on the store and on `MemoryStore`, which must agree on every answer.

Hypothesis makes the histories, and shortens one that shows a difference. After each step both stores are
read whole and compared, `seq` aside (only its order is promised).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from itertools import count
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from conveyor.conformance.kit.area import area, patient
from conveyor.conformance.kit.make import MANY, at, job, span
from conveyor.core.errors import GroupFullError
from conveyor.core.store import (
    Advanced,
    Beat,
    Change,
    Claim,
    Claimed,
    Deleted,
    Feature,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Limit,
    Order,
    Outcome,
    Pause,
    Rate,
    Release,
    Renewed,
    Retention,
    Settled,
    Stalled,
    Store,
    Undecodable,
    Where,
)
from conveyor.store.memory import MemoryStore

QUEUES = ("q", "r")
#: A parent's id comes later than its children's, so that no job is its own ancestor.
IDS = tuple("abcdpz")
EXAMPLES = 120
UNSAID = {"options", "report", "state", "seq", "rank", "released"}
T = TypeVar("T")

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
        arguments = [told(value) for value in values.pop("arguments", ())]
        options = [f"{key}={told(value)}" for key, value in values.items() if value not in (None, False)]
        return f"{self.method}({', '.join([*arguments, *options])})"


def told(value: Any) -> str:  # noqa: PLR0911 - one for each kind
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
            return f"[{', '.join(map(told, value))}]"
        case dict():
            return f"({', '.join(f'{k}={told(v)}' for k, v in value.items() if v not in (None, ()))})"
        case _ if is_dataclass(value):
            given = [(f.name, getattr(value, f.name)) for f in fields(value) if f.name not in UNSAID]
            shown_ones = [f"{name}={told(one)}" for name, one in given if one not in (None, False, (), 0)]
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


# ------------------------------------------------------------------ histories


@dataclass(frozen=True)
class Histories:
    """What histories are made of, for a store with these features.

    A step is drawn as one number, and made from it by a die of its own. Drawn piece by piece, thirty steps
    are more than Hypothesis has room for, and it would keep the trivial histories only.
    """

    features: frozenset[Feature]

    def of(self, length: int) -> st.SearchStrategy[list[Step]]:
        """Histories of up to this many steps."""
        # Shrinking turns numbers into zeros, and so leaves steps out.
        numbers = st.lists(st.integers(0, 2**20), min_size=length, max_size=length)
        return numbers.map(lambda found: [Die(number, self.features).step() for number in found if number])


class Die(random.Random):
    """Makes one step of a history from a number."""

    def __init__(self, number: int, features: frozenset[Feature]) -> None:
        """Make steps for a store with these features."""
        super().__init__(number)
        self.keys = Feature.UNIQUE_KEYS in features
        self.flows = Feature.FLOWS in features
        self.groups = Feature.GROUPS in features
        self.actives = Feature.ACTIVE_LIMITS in features
        self.rates = Feature.RATE_LIMITS in features

    def of(self, *choices: T) -> T:
        """One of these."""
        return self.choice(choices)

    def rarely(self, value: T, odds: int = 6) -> T | None:
        """This, once in so many times."""
        return value if self.randrange(odds) == 0 else None

    def span(self, *seconds: float | None) -> timedelta | None:
        """One of these times, or none."""
        choice = self.choice(seconds)
        return None if choice is None else span(choice)

    def some(self, values: Sequence[T], odds: int = 3) -> frozenset[T] | None:
        """Some of these values, or (mostly) no restriction."""
        return self.rarely(frozenset(self.sample(values, self.randint(0, 3))), odds)

    def document(self) -> str:
        """A small document."""
        return str(self.randrange(10))

    def step(self) -> Step:
        """Any step, the ones that move jobs more often."""
        kinds: dict[Callable[[], Step], int] = {
            self.insert: 14,
            self.family: 10,
            self.claim: 26,
            self.settle: 28,
            self.tick: 12,
            self.lapse: 4,
            self.advance: 8,
            self.renew: 5,
            self.update: 16,
            self.delete: 5,
            self.find: 2,
            self.count: 1,
            self.pause: 2,
            self.resume: 3,
            self.paused: 1,
            self.forget: 1,
        }
        (kind,) = self.choices(list(kinds), list(kinds.values()))
        return kind()

    def call(self, method: str, *arguments: Any, **options: Any) -> Step:
        """A call whose arguments fit any world."""
        return Step(method=method, values={"arguments": arguments, **options})

    def tick(self) -> Step:
        """Time passes."""
        seconds = self.of(0.000001, 1.0, 3.0, 5.0, 5.0, 7.0, 10.0, 20.0, 30.0, 601.0)
        return Step(method="tick", values={"seconds": seconds})

    def lapse(self) -> Step:
        """Time passes, and does its work."""
        return Step(method="lapse", values={"seconds": self.of(5.0, 10.0, 30.0)})

    def insert(self) -> Step:
        """Insert a few jobs."""
        return self.call("insert", self.batch(4), new_only=self.randrange(8) == 0)

    def family(self) -> Step:
        """Insert a parent and its children, and perhaps a parent of that."""
        if not self.flows:
            return self.insert()
        queue = self.queue()
        kids = [replace(self.record(), id=one) for one in self.sample(IDS[:3], self.randint(1, 3))]
        parent = replace(self.record(), id="p", queue=queue)
        family = [*(replace(kid, parent=parent.key) for kid in kids), replace(parent, parent=None)]
        if self.randrange(2):
            elder = replace(self.record(), id="z", parent=None)
            family = [*family[:-1], replace(parent, parent=elder.key), elder]
        return self.call("insert", tuple(family), new_only=self.randrange(8) == 0)

    def batch(self, size: int) -> tuple[JobRecord, ...]:
        """Jobs to insert in one call, children before their parents."""
        seen: set[JobKey] = set()
        found: list[JobRecord] = []
        for _ in range(self.randint(1, size)):
            record = self.record()
            found.append(replace(record, parent=None) if record.parent in seen else record)
            seen.add(record.key)
        return tuple(found)

    def record(self) -> JobRecord:
        """A job to insert."""
        id = self.of(*IDS)
        delay = self.rarely(self.span(0, 5, 20), 5)
        unique_key = self.of(None, None, "k", "l") if self.keys else None
        group = self.of(None, "g", "h") if self.groups else None
        parent = JobKey(self.of("q", "q", "q", "r"), self.of(*IDS[3:])) if self.flows else None
        return job(
            id,
            queue=self.queue(),
            name=self.of("x", "x", "y"),
            payload=self.document(),
            priority=self.of(0, 0, 0, 1, -1),
            lifo=self.randrange(4) == 0,
            ageing=self.span(None, None, None, None, 10),
            delay=delay,
            run_at=None if delay is not None else self.rarely(at(self.of(-5, 5, 20, 50)), 8),
            unique_key=unique_key,
            unique_for=None if unique_key is None else self.span(None, 7, 20),
            group=group,
            group_max_size=None if group is None else self.rarely(self.of(1, 2, 3)),
            parent=parent if parent is not None and parent.id > id and self.randrange(2) else None,
        )

    def queue(self) -> str:
        """A queue, mostly the same."""
        return self.of("q", "q", "q", "q", "r")

    def claim(self) -> Step:
        """A claim, mostly of whatever comes first."""
        return Step(
            method="claim",
            values={
                "queue": self.queue(),
                "count": self.of(1, 2, 2, 3, 9),
                "lease": self.span(5, 5, 30, 600),
                "newest_first": self.randrange(4) == 0,
                "started": self.randrange(4) != 0,
                "stalled": self.of(*Stalled),
                "names": self.rarely(self.of(frozenset("x"), frozenset("xy"), frozenset[str]()), 10),
                "ids": self.some(IDS, 6),
                "limit": self.rarely(self.limit(), 5),
                "group_limit": self.rarely(self.limit(), 5) if self.groups else None,
            },
        )

    def limit(self) -> Limit:
        """A limit."""
        rate = self.of(None, *(Rate(max=most, per=span(per)) for most, per in ((1, 5), (2, 10), (3, 30))))
        return Limit(
            active=self.of(None, 1, 2, 3) if self.actives else None, rate=rate if self.rates else None
        )

    def settle(self) -> Step:
        """Settle leases, held or lost."""
        outcomes = [self.outcome() for _ in range(self.of(1, 1, 1, 2, 3))]
        return Step(method="settle", values={"outcomes": outcomes})

    def outcome(self) -> dict[str, Any]:
        """What becomes of a lease."""
        kinds = ["completed", "failed", "failed", "cancelled", "retried", "snoozed", "snoozed until"]
        kinds += ["completed", "given back", "unreadable", "stalled", *(["awaiting"] if self.flows else [])]
        return {
            "lease": self.of(0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5),
            "kind": self.of(*kinds),
            "release": self.of(*Release),
            "retention": self.rarely(self.retention(), 3),
            "delay": self.span(None, 0, 5, 20),
            "spawn": self.batch(2) if self.randrange(3) == 0 else (),
        }

    def retention(self) -> Retention:
        """How long a finished job is kept."""
        return self.of(
            Retention(age=span(0)),
            Retention(age=span(0)),
            Retention(age=span(10)),
            Retention(count=1),
            Retention(age=span(5), count=2),
        )

    def renew(self) -> Step:
        """Renew leases, held or lost."""
        beats = [
            (
                self.randrange(5),
                self.of(None, self.document()),
                self.of(None, self.document()),
                self.randrange(3) == 0,
            )
            for _ in range(self.randint(1, 2))
        ]
        return Step(method="renew", values={"beats": beats, "lease": self.span(5, 30)})

    def advance(self) -> Step:
        """Let time do its work."""
        return self.call("advance", self.of({"q", "r"}, {"q", "r"}, {"q", "r"}, {"q"}, {"r"}, set[str]()))

    def where(self) -> Where:
        """A set of jobs."""
        return Where(
            queue=self.of("q", "q", "q", "r", None),
            ids=self.some(IDS, 2),
            states=self.some(list(JobState), 3),
            names=self.rarely(frozenset("x"), 9),
            group=self.rarely("g", 9) if self.groups else None,
            parent=self.rarely(JobKey("q", "p"), 9) if self.flows else None,
            unique_key=self.rarely("k", 9) if self.keys else None,
            report=self.rarely(self.of("{}", '"failed"', '"completed"', self.document()), 9),
            older_than=self.rarely(span(5), 9),
            expired=self.randrange(8) == 0,
            unretained=self.randrange(8) == 0,
        )

    def update(self) -> Step:
        """Change a set of jobs."""
        where = replace(self.where(), states=None, expired=False) if self.randrange(3) else self.where()
        return self.call("update", where, self.change())

    def change(self) -> Change:
        """What to do to a set of jobs."""
        delay = self.span(0, 0, 5, 20)
        return self.of(
            Change(retry=True),
            Change(retry=True),
            Change(retry=True),
            Change(retry=True),
            Change(payload=self.document(), priority=self.of(-1, 0, 1, 2)),
            Change(delay=delay),
            Change(run_at=at(self.of(0, 9, 30, 60)), payload=self.document()),
            Change(cancel=True),
            Change(report=self.document()),
            Change(retention=self.of(Retention(), self.retention())),
            Change(priority=1, delay=delay, cancel=True, retry=True),
            Change(release_key=True) if self.keys else Change(),
        )

    def delete(self) -> Step:
        """Remove a set of jobs."""
        return self.call("delete", self.where(), limit=self.of(1, 1, 2, MANY))

    def find(self) -> Step:
        """Look at some jobs."""
        return self.call("find", self.where(), limit=self.randint(1, 4), order=self.of(*Order))

    def count(self) -> Step:
        """Count jobs."""
        by_group = self.groups and self.randrange(2) == 0
        return self.call("count", self.where(), by_group=by_group, most=self.of(None, 2))

    def pause(self) -> Step:
        """Pause something."""
        return self.call("pause", self.queue(), self.what(), self.span(None, 5, 5, 10))

    def resume(self) -> Step:
        """Resume something."""
        return self.call("resume", self.queue(), self.what())

    def what(self) -> Pause:
        """What is paused."""
        pauses = [Pause(), Pause(name="x"), *([Pause(group="g")] if self.groups else [])]
        return self.of(*pauses)

    def paused(self) -> Step:
        """Look at what is paused."""
        return self.call("paused", self.queue())

    def forget(self) -> Step:
        """Forget a queue."""
        return self.call("forget", self.queue())


# ------------------------------------------------------------------ comparing


def shown(answer: Any) -> Any:  # noqa: C901, PLR0911 - one for each kind
    """An answer so that two stores' can be compared: sets as sets, documents as what they say, no `seq`."""
    match answer:
        case JobRecord():
            values = {f.name: getattr(answer, f.name) for f in fields(answer)}
            for name in ("payload", "options", "report"):
                values[name] = json.loads(values[name])
            values.pop("seq")
            values["rank"] = round(values["rank"], 6)
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


async def everything(store: Store, now: datetime) -> list[JobRecord]:
    """Every job of a store."""
    return list(await store.find(Where(), limit=MANY, now=now))


async def replay(store: Store, history: Sequence[Step]) -> None:
    """Make the calls of a history on the store and on the reference, and compare their answers."""
    world = World()
    for queue in QUEUES:
        await store.forget(queue, now=world.now)
    async with MemoryStore() as reference:
        for number, step in enumerate(history):
            call = step.call(world)
            if call is None:
                continue
            wanted, answer = await asked(reference, call), await asked(store, call)
            whole, found = await everything(reference, world.now), await everything(store, world.now)
            there = {one.key for one in whole}
            wanted = without_states_of_the_uncreated(wanted, there)
            answer = without_states_of_the_uncreated(answer, there)
            past = history[: number + 1]
            _agree(f"answer to {step.method}", shown(wanted), shown(answer), world, past)
            _agree(f"jobs after {step.method}", shown(whole), shown(found), world, past)
            assert [one.seq for one in found] == sorted({one.seq for one in found})
            if isinstance(answer, Claimed):
                assert answer.wait is None or answer.wait >= timedelta(0)
                world.leases += answer.jobs
        for order in Order:
            await _pages_agree(store, order, world)


async def _pages_agree(store: Store, order: Order, world: World) -> None:
    """Page by page a store gives the same jobs as at once."""
    whole = await store.find(Where(), limit=MANY, order=order, now=world.now)
    after: JobRecord | None = None
    for one in whole:
        (page,) = await store.find(Where(), limit=1, after=after, order=order, now=world.now)
        assert page == one
        after = one


def _agree(what: str, wanted: Any, found: Any, world: World, history: Sequence[Step]) -> None:
    if wanted == found:
        return
    story = "\n".join(f"  {n:2} {step}" for n, step in enumerate(history))
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        both = enumerate(zip(wanted, found, strict=True))
        pairs = [(n, _different(one, other)) for n, (one, other) in both if one != other]
        wanted, found = [(n, one) for n, (one, _) in pairs], [(n, other) for n, (_, other) in pairs]
    pytest.fail(
        f"the {what} differs, at second {world.second}\n"
        f"  MemoryStore: {wanted}\n  this store:  {found}\n{story}",
        pytrace=False,
    )


def _different(one: Any, other: Any) -> tuple[Any, Any]:
    """What differs between two jobs, and which they are."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one, other
    same = {name for name in {*one, *other} if one.get(name) == other.get(name)} - {"queue", "id"}
    first, second = ({k: v for k, v in each.items() if k not in same} for each in (one, other))
    return first, second


@area("model")
class Model:
    """Random histories."""

    @patient
    async def test_random_histories_give_the_same_answers_as_the_memory_store(
        self, store: Store, pytestconfig: pytest.Config
    ) -> None:
        asked_for: Any = pytestconfig.getoption("--conveyor-examples")
        steps: Any = pytestconfig.getoption("--conveyor-steps")
        loop = asyncio.get_running_loop()

        def play(history: list[Step]) -> None:
            asyncio.run_coroutine_threadsafe(replay(store, history), loop).result()

        histories = Histories(store.features).of(steps)
        run = settings(
            max_examples=asked_for or (EXAMPLES // 4 if type(store) is MemoryStore else EXAMPLES),
            derandomize=asked_for is None,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.filter_too_much,
            ],
            print_blob=False,
        )(given(histories)(play))
        await asyncio.to_thread(run)
