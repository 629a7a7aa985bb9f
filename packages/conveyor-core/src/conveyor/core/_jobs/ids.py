"""Random identifiers."""

from __future__ import annotations

import os
import time
from uuid import UUID, uuid4


def new_job_id() -> str:
    """A new job id that sorts by the time it was made, to the millisecond.

    A UUID of version 7. Source: RFC 9562, section 5.7.
    """
    stamp = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10))
    value = (stamp & (1 << 48) - 1) << 80 | 0x7 << 76 | (random >> 68 & 0xFFF) << 64 | 0b10 << 62
    return str(UUID(int=value | random & (1 << 62) - 1))


def new_token() -> str:
    """A new lease token: random, so that no two claims ever share one."""
    return uuid4().hex
