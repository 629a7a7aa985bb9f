"""The field's words: no identifier of the packages or of the published suite says it in words of our own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("shared-tests/src/**/*.py")])

#: What is said instead of each.
OURS = {
    "announcer": "EventPublisher",
    "hears": "receives",
    "heard": "received",
    "news": "event",
    "presence": "registration",
    "verdict": "settlement",
    "nobody": "None",
    "fate": "outcome",
    "strays": "unknown parents",
    "outage": "error backoff",
    "breath": "min_retry_delay",
    "gatherer": "batcher",
    "company": "batch",
    "mates": "batch",
    "hasty": "no linger",
    "suspects": "previously stalled",
    "lane": "sub-queue",
    "lanes": "sub-queues",
    "parked": "throttled",
    "unpark": "unthrottle",
    "bury": "write tombstones",
    "buried": "tombstones",
    "graves": "tombstones",
    "ledger": "unit of work",
    "parcels": "chunks",
    "patience": "timeout",
    "deaf": "no notifications",
    "chores": "background tasks",
    "anew": "reset",
    "told": "reported, published",
}
#: Identifiers that have such a word, and why.
ALLOWED = {
    "_verdict": "the conformance report's own: what it says of a store at the end",
}
#: The name of a test is a sentence of English.
_TEST = re.compile(r"^test_")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def names(source: str) -> Iterator[tuple[int, str]]:
    """The identifiers that a text gives or uses, each with its line."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield node.lineno, name
            case ast.alias(name=name, asname=alias):
                yield node.lineno, alias or name.rpartition(".")[2]
            case _:
                pass


def in_our_words(source: str) -> list[tuple[int, str, str]]:
    """The identifiers of a text that use a word of ours, with the line and what is said instead."""
    found = [
        (line, name, OURS[word.lower()])
        for line, name in names(source)
        if not _TEST.match(name) and name not in ALLOWED
        for word in _WORD.findall(name)
        if word.lower() in OURS
    ]
    return list(dict.fromkeys(found))


def test_identifiers_are_in_the_words_of_the_field() -> None:
    assert FILES
    found = [
        f"{file.relative_to(ROOT)}:{line}: {name} (say: {instead})"
        for file in FILES
        for line, name, instead in in_our_words(file.read_text("utf-8"))
    ]
    found += [
        f"{file.relative_to(ROOT)} (say: {OURS[word]})"
        for file in FILES
        for word in file.stem.split("_")
        if word in OURS
    ]

    assert found == []


def test_no_package_has_two_classes_of_one_name() -> None:
    found: dict[tuple[str, str], list[str]] = {}
    for file in FILES:
        if not file.is_relative_to(ROOT / "packages"):
            continue
        package = file.relative_to(ROOT / "packages").parts[0]
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                found.setdefault((package, node.name), []).append(f"{file.name}:{node.lineno}")

    assert {name: where for name, where in found.items() if len(where) > 1} == {}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("class PresenceKeeper: ...", ["PresenceKeeper"]),
        ("def bury(parcels): ...", ["bury", "parcels"]),
        ("from a import lanes as queues\nstore.unpark(patience=3)", ["unpark", "patience"]),
        ("NOBODY = None", ["NOBODY"]),
        ("from a import b_heard", ["b_heard"]),
        ("def test_it_is_told(): ...\nreceived = planes = company_name_ = 1", ["company_name_"]),
    ],
)
def test_a_word_of_ours_is_found(line: str, wrong: list[str]) -> None:
    assert sorted({name for _, name, _ in in_our_words(line)}) == sorted(wrong)
