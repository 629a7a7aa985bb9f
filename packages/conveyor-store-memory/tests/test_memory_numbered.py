"""Rows by number are found in order whatever came and went."""

from __future__ import annotations

import random
from typing import cast

import pytest

from conveyor.store.memory.rows import Row
from conveyor.store.memory.rows_by_seq import Numbered


class Counted:
    """As much of a row as matters here."""

    def __init__(self, seq: int) -> None:
        self.seq = seq


def seqs(rows: object) -> list[int]:
    return [row.seq for row in rows]  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_read_in_order_from_any_place_on(seed: int) -> None:
    chance = random.Random(seed)
    numbered, there = Numbered(), dict[int, Row]()
    last = 0
    for _ in range(4_000):
        if there and chance.random() < 0.48:
            number = chance.choice([min(there), max(there), chance.choice(list(there))])
            numbered.remove(there.pop(number))
            continue
        last += 1
        number = last if chance.random() < 0.8 else chance.randrange(1, last + 1)
        if number not in there:
            there[number] = cast("Row", Counted(number))
            numbered.add(there[number])

    wanted = sorted(there)
    assert len(numbered) == len(wanted)
    assert seqs(numbered.upwards(None)) == wanted
    assert seqs(numbered.downwards(None)) == wanted[::-1]
    for place in chance.sample(range(last + 2), 40):
        assert seqs(numbered.upwards(place)) == [number for number in wanted if number > place]
        assert seqs(numbered.downwards(place)) == [number for number in reversed(wanted) if number < place]
