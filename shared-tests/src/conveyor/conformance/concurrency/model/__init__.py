"""Random histories on the store and on `MemoryStore`."""

from __future__ import annotations

from conveyor.conformance.concurrency.model.agreeing import Model

__all__ = ["Model"]
