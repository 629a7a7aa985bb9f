"""Keeping leases alive: what the beats of a call come to, and what is said of their leases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from conveyor.core.store import Beat, Lease, Renewed


def merged_beats(beats: Iterable[Beat]) -> Sequence[Beat]:
    """One beat for each lease: with the latest of each document, and started if any of them says so."""
    merged: dict[Lease, Beat] = {}
    for beat in beats:
        known = merged.get(beat.lease)
        merged[beat.lease] = beat if known is None else _after(known, beat)
    return list(merged.values())


def _after(first: Beat, second: Beat) -> Beat:
    return Beat(
        lease=first.lease,
        payload=first.payload if second.payload is None else second.payload,
        report=first.report if second.report is None else second.report,
        started=first.started or second.started,
    )


def renewed(beats: Iterable[Beat], held: Iterable[tuple[Lease, object]]) -> Renewed:
    """What `Store.renew` returns; `held` are leases that were, and whether their jobs are to be cancelled."""
    found = dict(held)
    return Renewed(
        held=frozenset(found),
        lost=frozenset(beat.lease for beat in beats) - found.keys(),
        cancelled=frozenset(lease for lease, cancel_requested in found.items() if cancel_requested),
    )
