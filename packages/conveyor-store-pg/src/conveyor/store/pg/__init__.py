"""Conveyor store: jobs in PostgreSQL, shared by any number of processes on any number of hosts."""

from conveyor.store.pg.store import PgStore

__all__ = ["PgStore"]
