"""Conveyor store: jobs in one SQLite file, shared by the processes of one machine."""

from conveyor.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
