"""The areas of the suite, and what a run says of tests that it leaves out."""

from __future__ import annotations

from typing import Final

#: In the order of the table.
AREAS: Final = (
    "inserting",
    "claiming",
    "renewing",
    "settling",
    "transitions",
    "advancing",
    "sets",
    "pausing",
    "unique_keys",
    "flows",
    "groups",
    "limits",
    "events",
    "round_trips",
    "lifecycle",
    "honesty",
    "races",
    "crashes",
    "cancellations",
    "interleavings",
    "stalls",
    "model",
    "queue_behaviour",
    "flow_behaviour",
    "deduplication",
    "dead_letters",
    "worker_registry",
    "explain",
    "group_behaviour",
    "limit_behaviour",
    "batches",
    "ageing",
    "schedules",
    "using",
)
#: Why a test was left out, as its skip begins: the store does without, none could be made, or the run does.
NOT_OFFERED: Final = "not offered: "
NO_STORE: Final = "not run: no store could be made"
LEFT_OUT: Final = "left out: a long storm; run it with -m chaos"
