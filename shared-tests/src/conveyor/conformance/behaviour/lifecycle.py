"""Lifecycle: opening, closing, and what outlives them."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from conveyor.conformance.kit.anything import wrongly_taken
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import SOON, nothing
from conveyor.conformance.kit.make import (
    LEASE,
    add,
    at,
    claim,
    claim_jobs,
    completed,
    everything,
    get,
    ids,
    job,
    jobs,
    new_token,
    settle,
    span,
)
from conveyor.core import Queue, Worker
from conveyor.core.discovery import open_store
from conveyor.core.errors import InvalidOptionError, StoreClosedError
from conveyor.core.store import Beat, Change, Feature, JobState, Lease, Pause, Store, Where

Q = Where(queue="q")
CANARY = "c4n4ry"
#: What stands behind the scheme of URLs that hold a password, as such or by mistake.
HOSTILE = (
    f"://ada:{CANARY}@host/db",
    f"://ada:{CANARY}@host:port/db",
    f"://ada:{CANARY}@[::1/db",
    f"://ada:{CANARY}%zz@host/db",
    f"://ada:{CANARY}\N{ACCOUNT OF}@host/db",
    f"://ada:1@{CANARY}@host/db",
    f"://ada:1/@{CANARY}@host/db",
    f"://ada:1/2?{CANARY}=@host/db",
    f"://host/db?password={CANARY}&no_such_option={CANARY}",
    f":///path?password={CANARY}",
    f":ada:{CANARY}@host",
)

CALLS: dict[str, Callable[[Store], Awaitable[Any]]] = {
    "insert": lambda store: store.insert([job("a")], now=at(0)),
    "insert of nothing": lambda store: store.insert([], now=at(0)),
    "claim": lambda store: store.claim(claim(), now=at(0)),
    "take": lambda store: store.take("q", ["a"], token="t", lease=LEASE, now=at(0)),
    "renew": lambda store: store.renew([Beat(lease=Lease("q", "a", new_token()))], LEASE, now=at(0)),
    "settle": lambda store: store.settle([], now=at(0)),
    "advance": lambda store: store.advance({"q"}, now=at(0)),
    "find": lambda store: store.find(Q, limit=1, now=at(0)),
    "count": lambda store: store.count(Q, now=at(0)),
    "update": lambda store: store.update(Q, Change(priority=1), now=at(0)),
    "delete": lambda store: store.delete(Q, limit=1, now=at(0)),
    "pause": lambda store: store.pause("q", Pause(), now=at(0)),
    "resume": lambda store: store.resume("q", Pause(), now=at(0)),
    "paused": lambda store: store.paused("q", now=at(0)),
    "forget": lambda store: store.forget("q", now=at(0)),
}


def by_url(store_url: str | None) -> Store:
    """One more handle on the store under test, not open yet."""
    if store_url is None:
        pytest.skip("needs the store's URL: give the class a `store_url` fixture or a `store_scheme`")
    return open_store(store_url)


def _said_of(make: Callable[[], object]) -> str:
    """All that is reported of an attempt to make a store."""
    try:
        return repr(make())
    except InvalidOptionError as error:
        return "".join(traceback.format_exception(error)) + repr(error) + repr(error.value)


@area("lifecycle")
class Lifecycle:
    """`Store.open` and `Store.close`."""

    async def test_a_store_is_a_store(self, store: Store) -> None:
        assert isinstance(store, Store)
        assert callable(type(store).from_url)  # type: ignore[attr-defined]

    async def test_a_closed_store_refuses_every_call(self, store: Store) -> None:
        await store.close()

        for name, call in CALLS.items():
            with pytest.raises(StoreClosedError) as caught:
                await call(store)

            assert not caught.value.retryable, name
            assert "open" in str(caught.value), name

    async def test_a_store_that_was_never_opened_refuses_every_call(
        self, store: Store, store_url: str | None
    ) -> None:
        for call in CALLS.values():
            with pytest.raises(StoreClosedError):
                await call(by_url(store_url))

        assert await everything(store) == []

    async def test_a_worker_and_an_observer_of_a_store_that_is_not_open_are_refused(
        self, store: Store, store_url: str | None
    ) -> None:
        """They try again while a store is away, and for this one they would for ever."""
        await store.close()
        unopened = [] if store_url is None else [by_url(store_url)]

        for closed in (store, *unopened):
            queue: Queue[Any] = Queue("q", closed)
            worker = Worker("q", nothing, closed)
            waits: list[Callable[[], Awaitable[Any]]] = [
                worker.start,
                worker.run,
                partial(anext, queue.events()),
                partial(anext, queue.observe("a")),
            ]
            for wait in waits:
                with pytest.raises(StoreClosedError):
                    await wait()
            async with closed, worker:
                await (await queue.add("work")).wait_until_finished(SOON)

    async def test_another_event_loop_may_use_the_store_or_is_told_what_it_may_use(
        self, store: Store, store_url: str | None
    ) -> None:
        async def add_one() -> str | None:
            try:
                await store.insert([job("a")])
            except StoreClosedError as error:
                if store_url is not None:
                    async with by_url(store_url) as another:
                        await another.insert([job("b")])
                return str(error)
            return None

        refused = await asyncio.to_thread(asyncio.run, add_one())

        assert refused is None or "loop" in refused
        await add(store, job("c"))

    async def test_closing_a_store_that_was_never_opened_does_nothing(
        self, store: Store, store_url: str | None
    ) -> None:
        await by_url(store_url).close()

        assert await everything(store) == []

    async def test_opening_twice_does_nothing(self, store: Store) -> None:
        await add(store, job("a"))

        await store.open()

        assert ids(await everything(store)) == ["a"]

    async def test_closing_twice_does_nothing(self, store: Store) -> None:
        await store.close()
        await store.close()

    async def test_a_closed_store_can_be_opened_again(self, store: Store) -> None:
        await store.close()

        await store.open()

        await add(store, job("b"))
        assert "b" in ids(await everything(store))

    async def test_async_with_opens_and_closes(self, store: Store) -> None:
        await store.close()

        async with store as opened:
            assert opened is store
            await add(store, job("b"))

        with pytest.raises(StoreClosedError):
            await everything(store)

    async def test_many_may_open_one_handle_at_once(self, store: Store) -> None:
        await store.close()

        await asyncio.gather(*(store.open() for _ in range(8)))

        await add(store, job("b"))
        assert "b" in ids(await everything(store))

    async def test_closing_leaves_leases_as_they_are(self, store: Store) -> None:
        if Feature.DURABLE not in store.features:
            return
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        await store.close()
        await store.open()

        assert await get(store, "a") == held
        await settle(store, completed(held), now=at(1))

    async def test_closing_finishes_the_calls_under_way(self, store: Store) -> None:
        calls = [asyncio.create_task(store.insert([job(str(n))], now=at(0))) for n in range(20)]
        await asyncio.sleep(0)
        await store.close()
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)

        assert all(isinstance(result, (list, tuple, StoreClosedError)) for result in results), results
        if Feature.DURABLE in store.features:
            await store.open()
            added = {str(n) for n, result in enumerate(results) if not isinstance(result, BaseException)}
            assert set(ids(await everything(store))) == added

    async def test_an_option_that_is_not_known_is_refused(self, store: Store, store_url: str | None) -> None:
        url = "" if store_url is None else store_url
        with pytest.raises(InvalidOptionError) as caught:
            type(store).from_url(url, no_such_option=1)  # type: ignore[attr-defined]

        assert "no_such_option" in str(caught.value) or store_url is None

    async def test_an_option_of_a_wrong_kind_is_refused_by_its_name(
        self, store: Store, store_url: str | None
    ) -> None:
        """Or taken, if it is of a right one: what else comes out of a store's making, no user can expect."""
        make = partial(type(store).from_url, "" if store_url is None else store_url)  # type: ignore[attr-defined]
        said = wrongly_taken(make, {}, dict.fromkeys(inspect.signature(type(store)).parameters, ()))

        shown = [
            line for line in said if f": {type(store).__name__}" not in line and "refused url" not in line
        ]
        assert shown == []

    async def test_a_store_that_nobody_closed_ends_without_a_word(self, store_url: str | None) -> None:
        by_url(store_url)
        command = [sys.executable, "-W", "error", "-m", "conveyor.conformance.kit.unclosed", str(store_url)]
        ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=50)

        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    async def test_no_error_about_a_url_or_an_option_shows_what_may_be_a_password(
        self, store: Store, store_url: str | None
    ) -> None:
        url = "" if store_url is None else store_url
        scheme = url.partition(":")[0] or "memory"
        make = type(store).from_url  # type: ignore[attr-defined]
        said = [_said_of(lambda: make(url, password=CANARY))]
        said += [_said_of(partial(make, scheme + rest)) for rest in HOSTILE]

        assert not [text for text in said if CANARY in text], said

    # -------------------------------------------------------------- durability

    @needs(Feature.DURABLE)
    async def test_data_survives_reopening(self, store: Store) -> None:
        """Jobs, pauses and settled outcomes are as they were when the store is opened again."""
        await add(
            store, *jobs("abc", payload='{"é":1}'), job("later", delay=span(60)), job("x", queue="other")
        )
        held, done = await claim_jobs(store, 2)
        await settle(store, completed(done), now=at(1))
        await store.pause("q", Pause(name="x"), now=at(1))
        before = await everything(store)

        await store.close()
        await store.open()

        assert await everything(store) == before
        assert await store.paused("q", now=at(2)) == {Pause(name="x"): None}
        assert (await store.settle([completed(done)], now=at(2))).applied == {done.lease}
        await settle(store, completed(held), now=at(3))
        assert ids(await claim_jobs(store, 9, now=at(4))) == ["c"]

    @needs(Feature.DURABLE, Feature.UNIQUE_KEYS)
    async def test_keys_survive_reopening(self, store: Store) -> None:
        """A unique key is still held when the store is opened again."""
        await add(store, job("a", unique_key="k", unique_for=span(60)))
        await store.close()
        await store.open()

        (answer,) = await add(store, job("b", unique_key="k"), now=at(1))

        assert ids([answer]) == ["a"]

    @needs(Feature.DURABLE)
    async def test_seq_goes_on_after_reopening(self, store: Store) -> None:
        await add(store, job("a"))
        before = (await get(store, "a")).seq
        await store.delete(Q, limit=1, now=at(0))
        await store.close()
        await store.open()

        await add(store, job("b"))

        assert (await get(store, "b")).seq > before

    # -------------------------------------------------------------- two handles

    @needs(Feature.MULTI_PROCESS)
    async def test_two_handles_see_the_same_jobs(self, store: Store, peer: Store) -> None:
        await add(store, job("a"))
        assert ids(await everything(peer)) == ["a"]

        (held,) = await claim_jobs(peer)
        assert await get(store, "a") == held

        await settle(store, completed(held), now=at(1))
        assert (await get(peer, "a")).state is JobState.COMPLETED

    @needs(Feature.MULTI_PROCESS)
    async def test_closing_one_handle_leaves_the_other_open(self, store: Store, peer: Store) -> None:
        await peer.close()

        await add(store, job("a"))
        assert ids(await everything(store)) == ["a"]

    @needs(Feature.MULTI_PROCESS)
    async def test_many_handles_may_open_the_same_data_at_once(
        self, store: Store, store_url: str | None
    ) -> None:
        handles = [by_url(store_url) for _ in range(6)]

        await asyncio.gather(*(handle.open() for handle in handles))
        try:
            await add(store, job("a"))
            for handle in handles:
                assert ids(await everything(handle)) == ["a"]
        finally:
            await asyncio.gather(*(handle.close() for handle in handles))
