"""PostgreSQL for tests, with no set-up: `provisioning.py` says where it comes from."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conveyor.testing.pg.errors import BouncerUnavailableError, PostgresUnavailableError, ServiceError
    from conveyor.testing.pg.pgbouncer import Bouncer, bouncer
    from conveyor.testing.pg.provisioning import Context, get_server, private_server, provision
    from conveyor.testing.pg.server import Mode, Server

__all__ = [
    "Bouncer",
    "BouncerUnavailableError",
    "Context",
    "Mode",
    "PostgresUnavailableError",
    "Server",
    "ServiceError",
    "bouncer",
    "get_server",
    "private_server",
    "provision",
]


# What keeps a server is a process of its own, of this package, that needs none of these: psycopg and
# conveyor.core took it two thirds of a second. Pinned by
# test_pg_server.py::test_what_keeps_a_server_is_light.
def __getattr__(name: str) -> Any:
    if name in __all__:
        from conveyor.testing.pg import errors, pgbouncer, provisioning, server  # noqa: PLC0415 - see above

        return next(
            vars(module)[name] for module in (errors, server, pgbouncer, provisioning) if name in vars(module)
        )
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
