"""What else happens in a worker's life while any of its calls to the store is under way."""

from __future__ import annotations

from conveyor.conformance.concurrency.interleavings.every_call import Interleavings

__all__ = ["Interleavings"]
