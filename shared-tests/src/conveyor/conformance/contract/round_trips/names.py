"""Round trips: names, ids, groups and keys, whatever they are made of."""

from __future__ import annotations

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    LEASE,
    add,
    at,
    claim_jobs,
    completed,
    everything,
    get,
    ids,
    job,
    look,
    settle,
    take_one,
)
from conveyor.core.store import (
    Feature,
    JobKey,
    JobState,
    Pause,
    Store,
    Where,
)

#: Names of things, none of which means anything to a store.
NAMES = [
    "a",
    " ",
    "  a  ",
    "A",
    "0",
    "null",
    "None",
    "__all__",
    "__ungrouped__",
    "__none__",
    "*",
    "%",
    "_",
    "a%b_c*d?",
    "it's",
    'say "hello"',
    "`a`",
    "back\\slash",
    "semi;colon",
    "--",
    "/* a */",
    "'; drop table conveyor_jobs; --",
    "$1",
    ":name",
    "%s",
    "{}",
    "{0}",
    "a,b",
    "a:b",
    "a/b",
    "a.b",
    "a|b",
    "a\x1fb",
    "a\nb",
    "a\tb",
    "\x01",
    "\x1f",
    "\x7f",
    "é",
    "e\u0301",
    "naïve café",
    "ß",
    "\u0130i\u0307\u0131",
    "ﬃ",
    "日本語のキュー",
    "кириллица",
    "اسم",
    "\u202eabc",
    "\u200b",
    "\ufeffabc",
    "🐝",
    "👩‍👩‍👧‍👦",
    "\U0010ffff",
    "x" * 255,
    "群" * 255,
    "🐝" * 255,
]


@area("round trips")
class Names:
    """Names of queues, jobs, groups, keys and workers, as awkward as they get."""

    async def test_jobs_in_queues_of_any_name_live_their_lives(self, store: Store) -> None:
        for queue in NAMES:
            await add(store, job("a", queue=queue), job("b", queue=queue, delay=LEASE))

        for queue in NAMES:
            assert {key[0] for key in await store.count(Where(queue=queue), now=at(0))} == {queue}
            (held,) = await claim_jobs(store, 5, queue=queue)
            assert (held.queue, held.id) == (queue, "a")
            await settle(store, completed(held), now=at(1))
            assert ids((await store.advance({queue}, now=at(60))).due) == ["b"]

        assert len(await store.count(Where(), now=at(60))) == 2 * len(NAMES)

    async def test_jobs_of_any_id_live_their_lives(self, store: Store) -> None:
        await add(store, *(job(id) for id in NAMES))

        assert ids(await everything(store)) == NAMES
        for name in NAMES:
            held = await take_one(store, name)
            assert held.id == name
            await settle(store, completed(held), now=at(1))
            assert (await get(store, name)).state is JobState.COMPLETED
            one = Where(queue="q", ids=frozenset({name}))
            assert list((await store.delete(one, limit=9, now=at(2))).removed) == [held.key]
            assert await look(store, name) is None

    async def test_jobs_of_any_name_are_found_claimed_and_paused_by_it(self, store: Store) -> None:
        kinds = numbered(NAMES)
        await add(store, *(job(n, name=name) for n, name in kinds.items()))

        for n, name in kinds.items():
            where = Where(queue="q", names=frozenset({name}))
            assert ids(await store.find(where, limit=9, now=at(0))) == [n]
            await store.pause("q", Pause(name=name), now=at(0))
            assert await store.paused("q", now=at(0)) == {Pause(name=name): None}
            assert await claim_jobs(store, names=frozenset({name})) == []
            await store.resume("q", Pause(name=name), now=at(0))
            (held,) = await claim_jobs(store, 9, names=frozenset({name}))
            assert (held.id, held.name) == (n, name)

    async def test_pausing_a_name_pauses_no_other(self, store: Store) -> None:
        kinds = numbered(NAMES)
        await add(store, *(job(n, name=name) for n, name in kinds.items()))
        for name in NAMES[:20]:
            await store.pause("q", Pause(name=name), now=at(0))

        assert ids(await claim_jobs(store, 99)) == list(kinds)[20:]

    @needs(Feature.GROUPS)
    async def test_groups_of_any_name_are_told_apart(self, store: Store) -> None:
        kinds = numbered(NAMES)
        await add(store, *(job(n, group=group) for n, group in kinds.items()))

        counts = await store.count(Where(queue="q"), by_group=True, now=at(0))
        assert counts == {(group, JobState.WAITING): 1 for group in NAMES}
        await store.pause("q", Pause(group="__ungrouped__"), now=at(0))
        assert len(await claim_jobs(store, 99)) == len(NAMES) - 1

    @needs(Feature.UNIQUE_KEYS)
    async def test_keys_of_any_text_are_told_apart(self, store: Store) -> None:
        kinds = numbered([*NAMES, "k" * 10_000, "k" * 10_001])
        first = await add(store, *(job(n, unique_key=key) for n, key in kinds.items()))
        second = await add(store, *(job(f"x{n}", unique_key=key) for n, key in kinds.items()))

        assert all(answer.created for answer in first)
        assert ids(second) == list(kinds)

    async def test_workers_of_any_name_hold_jobs(self, store: Store) -> None:
        for n, name in numbered(NAMES).items():
            await add(store, job(n))
            (held,) = await claim_jobs(store, worker=name)
            assert held.locked_by == name

    @needs(Feature.FLOWS)
    async def test_parents_of_any_name_are_released(self, store: Store) -> None:
        for n, name in numbered(NAMES).items():
            parent = JobKey(name, name)
            await add(store, job(n, parent=parent), job(name, queue=name))
            settled = await settle(store, completed(await take_one(store, n)), now=at(1))
            assert list(settled.released) == [parent]


def numbered(names: list[str]) -> dict[str, str]:
    """These names by a number that pytest can show."""
    return {f"{n:02}": name for n, name in enumerate(names)}
