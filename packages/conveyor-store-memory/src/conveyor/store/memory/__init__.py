"""Conveyor store: jobs in this process's memory, for tests and for trying things out."""

from conveyor.store.memory.store import MemoryStore

__all__ = ["MemoryStore"]
