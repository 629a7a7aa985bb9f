"""Conveyor store: jobs in PostgreSQL, shared by any number of processes on any number of hosts."""

try:
    import psycopg  # noqa: F401 - to say what to install, before any other module imports it
except ImportError as error:
    raise ImportError(
        "psycopg cannot be used here. Install one of its builds: pip install 'psycopg[binary]', which brings "
        "all that it needs, or where it has no wheel 'psycopg[c]', which needs libpq and a compiler. "
        f"It said: {error}"
    ) from error

from conveyor.store.pg.store import PgStore

__all__ = ["PgStore"]
