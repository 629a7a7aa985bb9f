"""Round trips: the documents of a job."""

from __future__ import annotations

import json
from datetime import timedelta

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    AT_ONCE,
    LEASE,
    add,
    at,
    claim_jobs,
    completed,
    everything,
    get,
    job,
    settle,
)
from conveyor.core.store import (
    Beat,
    Change,
    Outcome,
    Store,
    Where,
)

#: JSON texts as core may hand them over. None is to be looked into.
DOCUMENTS = {
    "null": "null",
    "true": "true",
    "false": "false",
    "zero": "0",
    "a text": '"ok"',
    "a number in a text": '"123"',
    "an empty text": '""',
    "null in a text": '"null"',
    "an object in a text": '"{\\"a\\": 1}"',
    "an empty object": "{}",
    "an empty array": "[]",
    "nested": '{"a":[1,[2,[3,{"b":[null,true,{}]}]]],"c":{"d":{"e":{}}}}',
    "deep": "[" * 64 + "]" * 64,
    "unicode": '{"é":"naïve 群 🐝 \\u0001 \u202e \ufeff"}',
    "escapes": '{"a":"quote \\" slash \\\\ line \\n tab \\t unit \\u001f"}',
    "sql": '{"a":"\'; drop table jobs; -- %s ? :x $1 @y"}',
    "beyond 32 bits": "4294967297",
    "beyond 64 bits": f"{2**64}",
    "beyond a float": f"[{10**400}, -{10**400}]",
    "beyond a float's precision": f"[{2**53 + 1}, {2**63 - 1}, -{2**63}]",
    "floats": "[0.1, 1.5, -2.25, 1e-300, 1.7976931348623157e308]",
    "spaces": '{ "a" : [ 1 , 2 ] }',
    "large": json.dumps({"text": "é" * 300_000}),
    "many keys": json.dumps({f"key-{n}": n for n in range(5_000)}),
}


@area("round trips")
class Documents:
    """Payloads, options and reports."""

    async def test_documents_come_back_equal(self, store: Store) -> None:
        for kind, text in DOCUMENTS.items():
            await add(store, job(kind, payload=text, options=text, report=text))

            stored = await get(store, kind)
            (held,) = await claim_jobs(store)
            for found in (stored, held):
                assert same(found.payload, text), kind
                assert same(found.options, text), kind
                assert same(found.report, text), kind

    async def test_documents_that_are_written_later_come_back_equal(self, store: Store) -> None:
        for kind, text in DOCUMENTS.items():
            await add(store, *(job(f"{written} {kind}") for written in ("beat", "settled", "changed")))
            beat, settled, changed = await claim_jobs(store, 3)

            await store.renew([Beat(lease=beat.lease, report=text, payload=text)], LEASE, now=at(1))
            await settle(store, Outcome.completed(settled, text), now=at(1))
            await store.update(Where(ids=frozenset({changed.id})), Change(payload=text), now=at(1))

            found = [await get(store, held.id) for held in (beat, settled, changed)]
            assert same(found[0].report, text), kind
            assert same(found[0].payload, text), kind
            assert same(found[1].report, text), kind
            assert same(found[2].payload, text), kind

    async def test_a_document_stays_as_it_is_through_a_whole_life(self, store: Store) -> None:
        text = DOCUMENTS["escapes"]
        await add(store, job("a", payload=text, options=text))
        for second in range(3):
            (held,) = await claim_jobs(store, now=at(second))
            await settle(store, Outcome.retry(held, text, delay=timedelta(0)), now=at(second))
        await claim_jobs(store, now=at(5))
        await store.advance({"q"}, now=at(100))

        found = await get(store, "a")
        assert same(found.payload, text)
        assert same(found.options, text)
        assert same(found.report, text)

    async def test_spawned_documents_come_back_equal(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        texts = list(DOCUMENTS.values())
        spawn = tuple(job(str(n), payload=text) for n, text in enumerate(texts))

        await settle(store, completed(held, spawn=spawn, retention=AT_ONCE), now=at(1))

        for found, text in zip(await everything(store), texts, strict=True):
            assert same(found.payload, text)


def same(one: str, other: str) -> bool:
    """Whether two JSON texts say the same."""
    return bool(json.loads(one) == json.loads(other))
