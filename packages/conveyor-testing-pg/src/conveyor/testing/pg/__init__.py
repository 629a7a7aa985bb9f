"""PostgreSQL for tests, with no set-up: `provision.py` says where it comes from."""

from conveyor.testing.pg.errors import BouncerUnavailableError, PostgresUnavailableError, ServiceError
from conveyor.testing.pg.pgbouncer import Bouncer, bouncer
from conveyor.testing.pg.provision import Context, get_server, private_server, provision
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
