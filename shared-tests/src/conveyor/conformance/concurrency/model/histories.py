"""Random histories, made of numbers that Hypothesis draws."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from hypothesis import strategies as st

from conveyor.conformance.concurrency.model.steps import Step
from conveyor.conformance.kit.make import MANY, at, job, span
from conveyor.core.store import (
    Change,
    Feature,
    JobKey,
    JobRecord,
    JobState,
    Limit,
    Order,
    Pause,
    Rate,
    Release,
    Retention,
    Stalled,
    Where,
)

#: A parent's id comes later than its children's, so that no job is its own ancestor.
IDS = tuple("abcdpz")
#: Until when a parent waits that has children, too.
_WAITS: Final[tuple[dict[str, Any], ...]] = (
    {"delay": span(20), "run_at": None},
    {"delay": None, "run_at": at(50)},
)
T = TypeVar("T")


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
            self.claim: 20,
            self.take: 8,
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
        parent = replace(self.record(), id="p", queue=queue, **self.of({}, *_WAITS))
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
                "limit": self.rarely(self.limit(), 5),
                "group_limit": self.rarely(self.limit(), 5) if self.groups else None,
            },
        )

    def take(self) -> Step:
        """A claim by ids, mostly of few, and often of a parent."""
        names = [*self.sample(IDS, self.randint(0, 3)), *self.of((), ("p",))]
        return Step(
            method="take",
            values={
                "queue": self.queue(),
                "ids": frozenset(names),
                "lease": self.span(5, 5, 30, 600),
                "started": self.randrange(4) != 0,
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
