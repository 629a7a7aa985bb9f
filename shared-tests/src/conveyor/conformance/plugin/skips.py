"""Why a test was left out, as its skip begins: the store does without, or the run does."""

from __future__ import annotations

from typing import Final

NOT_OFFERED: Final = "not offered: "
LEFT_OUT: Final = "left out: a long storm; run it with -m chaos"
