"""A Conveyor store in a SQL database: what `conveyor.store.sql` leaves to a store, and no more."""

from conveyor_store_plainsql.store import PlainSqlStore

__all__ = ["PlainSqlStore"]
