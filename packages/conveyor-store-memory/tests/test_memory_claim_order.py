"""Claims agree with the contract read literally: a search through all jobs, for each job that is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from conveyor.core.store import (
    Claim,
    JobRecord,
    JobState,
    Limit,
    Outcome,
    Pause,
    Rate,
    Where,
)
from conveyor.store.memory import MemoryStore

START = datetime(2030, 1, 1, tzinfo=UTC)
EVERYTHING = Where(queue="q")
SECOND = timedelta(seconds=1)
#: How often a history inserts, claims, settles, advances and pauses.
BUSY, QUIET = (2, 6, 2, 2, 2), (2, 6, 6, 6, 1)


@dataclass
class Starts:
    """The starts that are remembered."""

    seen: list[tuple[str | None, datetime]] = field(default_factory=list)
    longest: timedelta = timedelta(0)

    def forget(self, now: datetime) -> None:
        self.seen = [(key, at) for key, at in self.seen if now < at + self.longest]

    def allow(self, key: str | None, rate: Rate, now: datetime) -> bool:
        return sum(who == key and at <= now < at + rate.per for who, at in self.seen) < rate.max


@dataclass
class Oracle:
    """What the contract says about claims, with no thought of their cost."""

    last_served: dict[str | None, int] = field(default_factory=dict)
    picks: int = 0
    starts: Starts = field(default_factory=Starts)
    group_starts: Starts = field(default_factory=Starts)
    pauses: dict[Pause, datetime | None] = field(default_factory=dict)

    @property
    def known(self) -> set[str]:
        return {group for group in self.last_served if group is not None}

    def meet(self, group: str | None) -> None:
        if group is not None:
            self.last_served.setdefault(group, 0)

    def paused(self, what: Pause, now: datetime) -> bool:
        return what in self.pauses and ((until := self.pauses[what]) is None or until > now)

    def candidates(self, jobs: Sequence[JobRecord], request: Claim, now: datetime) -> list[JobRecord]:
        active = [job for job in jobs if job.state is JobState.ACTIVE]
        limit, group_limit = request.limit or Limit(), request.group_limit or Limit()
        if self.paused(Pause(), now) or (limit.active is not None and len(active) >= limit.active):
            return []
        if limit.rate is not None and not self.starts.allow(None, limit.rate, now):
            return []
        found = []
        for job in jobs:
            of_group = sum(other.group == job.group for other in active)
            wanted = request.names is None or job.name in request.names
            if job.state is not JobState.WAITING or not wanted or self.paused(Pause(name=job.name), now):
                continue
            if job.group is not None:
                rate = group_limit.rate
                if self.paused(Pause(group=job.group), now):
                    continue
                if group_limit.active is not None and of_group >= group_limit.active:
                    continue
                if rate is not None and not self.group_starts.allow(job.group, rate, now):
                    continue
            found.append(job)
        return found

    def claim(self, jobs: Sequence[JobRecord], request: Claim, now: datetime) -> list[JobRecord]:
        self._register_windows(request, now)
        left, given = list(jobs), list[JobRecord]()
        while len(given) < request.count and (candidates := self.candidates(left, request, now)):
            picked = min(
                candidates,
                key=lambda job: (job.sort_key, self.last_served.get(job.group, 0), _place(job, request)),
            )
            if self.known:
                self.picks += 1
                self.last_served[picked.group] = self.picks
            if request.limit is not None and request.limit.rate is not None:
                self.starts.seen.append((None, now))
            if request.group_limit is not None and request.group_limit.rate is not None:
                self.group_starts.seen.append((picked.group, now))
            left[left.index(picked)] = replace(picked, state=JobState.ACTIVE)
            given.append(picked)
        return given

    def next_at(self, jobs: Sequence[JobRecord], request: Claim, now: datetime) -> datetime | None:
        """When time alone, with a call of `advance`, lets the claim return a job."""
        instants = {now}
        instants.update(job.run_at for job in jobs if job.run_at is not None)
        instants.update(until for until in self.pauses.values() if until is not None)
        for starts, limit in ((self.starts, request.limit), (self.group_starts, request.group_limit)):
            if limit is not None and limit.rate is not None:
                instants.update(at + limit.rate.per for _, at in starts.seen)
        for instant in sorted(at for at in instants if at >= now):
            then = [replace(job, state=JobState.WAITING) if _due(job, instant) else job for job in jobs]
            if self.candidates(then, request, instant):
                return instant
        return None

    def advance(self, jobs: Sequence[JobRecord], now: datetime) -> None:
        """Forget what is to be forgotten, after the jobs have moved."""
        self.starts.forget(now)
        self.group_starts.forget(now)
        live = {
            job.group for job in jobs if job.state in {JobState.WAITING, JobState.DELAYED, JobState.ACTIVE}
        }
        waiting = [self.last_served.get(job.group, 0) for job in jobs if job.state is JobState.WAITING]
        for group in self.known - live:
            if all(self.last_served[group] < served for served in waiting):
                del self.last_served[group]
        if not self.known:
            self.last_served, self.picks = {}, 0

    def _register_windows(self, request: Claim, now: datetime) -> None:
        for starts, limit in ((self.starts, request.limit), (self.group_starts, request.group_limit)):
            if limit is not None and limit.rate is not None:
                starts.longest = max(starts.longest, limit.rate.per)
                starts.forget(now)


def _place(job: JobRecord, request: Claim) -> int:
    return -job.seq if job.lifo or request.newest_first else job.seq


def _due(job: JobRecord, now: datetime) -> bool:
    return job.state is JobState.DELAYED and job.run_at is not None and job.run_at <= now


@dataclass
class History:
    """Random calls on a store, each claim of which is foretold."""

    store: MemoryStore
    random: Random
    oracle: Oracle = field(default_factory=Oracle)
    now: datetime = START
    number: int = 0
    weights: tuple[int, ...] = BUSY
    held: list[JobRecord] = field(default_factory=list)
    group_limits: list[Limit | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Few in each history, so that claims of one kind come again and again.
        rates = [Rate(max=n, per=self.random.choice([1, 2, 2, 3, 3, 12]) * SECOND) for n in (1, 2)]
        self.group_limits = [None, Limit(active=1), Limit(active=2, rate=rates[1]), Limit(rate=rates[0])]

    async def step(self) -> None:
        self.now += self.random.choice([0, 0, 0, 1, 2]) * SECOND
        calls = (self.insert, self.claim, self.settle, self.advance, self.pause)
        [call] = self.random.choices(calls, self.weights)
        await call()

    async def jobs(self) -> Sequence[JobRecord]:
        return await self.store.find(EVERYTHING, limit=1_000, now=self.now)

    async def insert(self) -> None:
        for _ in range(self.random.randint(1, 3)):
            self.number += 1
            job = JobRecord(
                queue="q",
                id=str(self.number),
                name=self.random.choice("xxy"),
                group=self.random.choice([None, None, "a", "b", "c"]),
                priority=self.random.choice([0, 0, 0, 1]),
                lifo=self.random.random() < 0.2,
                delay=self.random.choice([None, None, None, 2 * SECOND]),
            )
            self.oracle.meet(job.group)
            await self.store.insert([job], now=self.now)

    async def claim(self) -> None:
        choice = self.random.choice
        request = Claim(
            queue="q",
            count=choice([1, 1, 2, 5]),
            token=str(self.random.random()),
            lease=choice([2, 10]) * SECOND,
            worker="w",
            newest_first=self.random.random() < 0.1,
            names=choice([None, None, None, frozenset("x")]),
            limit=choice([None, None, Limit(active=4), Limit(rate=Rate(max=3, per=3 * SECOND))]),
            group_limit=choice(self.group_limits),
        )
        jobs = await self.jobs()
        expected = self.oracle.claim(jobs, request, self.now)

        claimed = await self.store.claim(request, now=self.now)

        assert [job.id for job in claimed.jobs] == [job.id for job in expected]
        self.held += claimed.jobs
        if len(expected) < request.count:
            at = self.oracle.next_at(await self.jobs(), request, self.now)
            wait = None if at is None else at - self.now
            assert claimed.wait == wait

    async def settle(self) -> None:
        for job in self.random.sample(self.held, len(self.held) // 2):
            self.held.remove(job)
            outcome = self.random.choice(
                [
                    Outcome.completed(job, "{}"),
                    Outcome.completed(job, "{}"),
                    Outcome.given_back(job),
                    Outcome.retry(job, "{}", delay=SECOND),
                ]
            )
            await self.store.settle([outcome], now=self.now)

    async def advance(self) -> None:
        await self.store.advance({"q"}, now=self.now)
        self.oracle.advance(await self.jobs(), self.now)

    async def pause(self) -> None:
        what = self.random.choice([Pause(), Pause(name="x"), Pause(group="a"), Pause(group="b")])
        if self.random.random() < 0.6:
            await self.store.resume("q", what, now=self.now)
            self.oracle.pauses.pop(what, None)
            return
        for_ = self.random.choice([None, SECOND, 3 * SECOND])
        await self.store.pause("q", what, for_, now=self.now)
        until = self.oracle.pauses.get(what, self.now)
        ends = None if for_ is None or until is None else max(until, self.now + for_)
        self.oracle.pauses[what] = ends


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(100, 1_000), marks=pytest.mark.chaos)])
async def test_a_claim_returns_what_a_search_through_all_jobs_finds(seeds: range) -> None:
    for seed in seeds:
        async with MemoryStore() as store:
            history = History(store, Random(seed), weights=QUIET if seed % 2 else BUSY)

            try:
                for _ in range(80):
                    await history.step()
            except BaseException as error:
                error.add_note(f"in the history of seed {seed}")
                raise
