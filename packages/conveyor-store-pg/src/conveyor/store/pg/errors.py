"""PostgreSQL's errors as the store errors of the contract: the one place that knows its codes.

Source: appendix A of PostgreSQL's manual; PgBouncer reports whatever is wrong with a connection as 08P01.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

import psycopg

from conveyor.core.errors import (
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from conveyor.store.pg.options import Target

#: Not a code of the server's: the connection was lost, or never made.
_GONE: Final = "08006"


class StoreEncodingError(StoreError):
    """The database was created with an encoding that does not hold every text."""


class Retryability(Enum):
    """What an error says about the statement that it answers, and about another try."""

    #: It did not happen; the same may work soon.
    RETRYABLE = "retryable"
    #: The connection is gone. Whether it happened depends on what had been sent.
    CONNECTION_LOST = "connection lost"
    #: It did not happen, and will not work before something is changed.
    REFUSED = "refused"


def code_of(error: BaseException) -> str | None:
    """The SQLSTATE; None: neither the server nor the connection has anything to do with it."""
    if not isinstance(error, psycopg.Error):
        return None
    if error.sqlstate is not None:
        return error.sqlstate
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return _refusal(str(error))
    return None


def retryability(error: BaseException) -> Retryability:
    """Whether a statement may be tried again after this error."""
    code = code_of(error)
    if code is None:
        return Retryability.REFUSED
    if code[:2] == "08" or code in _LOST:
        return Retryability.CONNECTION_LOST
    return Retryability.RETRYABLE if code in _RETRYABLE or code[:2] == "40" else Retryability.REFUSED


def misprepared(error: BaseException) -> bool:
    """Whether a statement was looked for on a server connection where it was not prepared, or was twice."""
    return code_of(error) in {"26000", "42P05"}


def store_error(error: BaseException, target: Target, *, outcome_unknown: bool = False) -> StoreError:
    """The store error that says what happened, and what to do about it; raise it `from cause(error)`."""
    code = code_of(error)
    kind, what = _meaning(code)
    words = " ".join(target.clean(str(error)).split())
    shown = f"{target.place} {what} ({code or type(error).__name__}: {words})"
    return kind(shown, outcome_unknown=outcome_unknown)


def cause(error: BaseException, target: Target) -> BaseException | None:
    """The error itself, to raise from; None if it shows a secret."""
    return error if target.clean(str(error)) == str(error) else None


def busy_error(target: Target, *, outcome_unknown: bool = False) -> StoreBusyError:
    """The server is there, but the call did not get through in time."""
    return StoreBusyError(
        f"{target.place} did not finish the call within operation_timeout; "
        "look for a transaction that keeps rows locked (pg_stat_activity), or allow more time",
        outcome_unknown=outcome_unknown,
    )


def unresponsive_error(target: Target, *, outcome_unknown: bool = False) -> StoreUnavailableError:
    """The server does not answer any more."""
    return StoreUnavailableError(
        f"{target.place} did not answer within operation_timeout", outcome_unknown=outcome_unknown
    )


def pool_exhausted_error(target: Target, size: int) -> StoreBusyError:
    """There was no connection to be had."""
    return StoreBusyError(
        f"all of the {size} connections to {target.place} were in use for longer than operation_timeout; "
        "allow more with pool_size"
    )


def encoding_error(target: Target, encoding: str) -> StoreEncodingError:
    """The database cannot hold every text."""
    return StoreEncodingError(
        f"the database of {target.place} has the encoding {encoding}, which does not hold every text: a job "
        "could be added whose result cannot be written. Use one that was created with encoding 'UTF8'"
    )


def client_encoding_error(target: Target, encoding: str) -> StoreEncodingError:
    """The connections that were given cannot carry every text."""
    return StoreEncodingError(
        f"the connections to {target.place} have the client_encoding {encoding}, which does not hold "
        "every text; give the pool kwargs={'client_encoding': 'UTF8'}"
    )


def given_pool_error(target: Target, *, outcome_unknown: bool = False) -> StoreUnavailableError:
    """A pool of the application's had no connection to give."""
    return StoreUnavailableError(
        f"there was no connection to {target.place} within operation_timeout: all were in use, for which its "
        "max_size may be too small, or none could be made, for which see the log of psycopg.pool",
        outcome_unknown=outcome_unknown,
    )


def _refusal(words: str) -> str:
    """The code of a connection that was not made: libpq says it in words only."""
    return next((code for pattern, code in _WORDS if pattern.search(words)), _GONE)


def _meaning(code: str | None) -> tuple[type[StoreError], str]:
    if code is None:
        return StoreError, "could not be used"
    return _MEANINGS.get(code) or _CLASSES.get(code[:2]) or (StoreError, "refused a statement")


#: 40003: whether it was completed is not known. 0A000: tables have changed under a prepared plan.
_LOST: Final = {"57P01", "57P02", "57P03", "57P05", "25P03", "40003"}
_RETRYABLE: Final = {"55P03", "55006", "57014", "53000", "53200", "53300", "53400", "0A000", "42P05", "26000"}
_WORDS: Final = tuple(
    (re.compile(words), code)
    for words, code in (
        # of several hosts each has its own reason
        ("Multiple connection attempts failed", "08006"),
        ("password authentication failed|no password supplied", "28P01"),
        ("pg_hba.conf|is not permitted to log in|role .* does not exist", "28000"),
        ("too many clients|remaining connection slots|too many connections|no more connections", "53300"),
        ("starting up|shutting down|in recovery mode|accepting connections", "57P03"),
        ("no such database|database .* does not exist", "3D000"),
        ("session is (not )?read-only|server is (not )?in hot standby", "25006"),
    )
)
_UNREACHABLE: Final = "cannot be reached now"
_LOCKED: Final = "is kept busy by others"
_LOGIN: Final = "refuses the login; check the user, the password and pg_hba.conf"
_POOLER: Final = "is behind a pooler that does not keep prepared statements; give prepare=False"
_TABLES: Final = "has not the tables of this release; open the store once with auto_migrate=True"
_MEANINGS: Final[dict[str, tuple[type[StoreError], str]]] = {
    "25006": (
        StoreReadOnlyError,
        "cannot be written to: it is a standby or read-only; name all hosts in the DSN if there are several",
    ),
    "28000": (StoreUnavailableError, _LOGIN),
    "28P01": (StoreUnavailableError, _LOGIN),
    "3D000": (StoreUnavailableError, "is not there; create the database"),
    "3F000": (StoreUnavailableError, _TABLES),
    "40001": (StoreBusyError, _LOCKED),
    "40P01": (StoreBusyError, _LOCKED),
    "42501": (StoreUnavailableError, "denies a permission; grant it to the user of the store"),
    "42P01": (StoreUnavailableError, _TABLES),
    "42703": (StoreUnavailableError, _TABLES),
    "53100": (StoreFullError, "cannot be written to: its disk is full; free some room"),
    "53200": (StoreUnavailableError, "is out of memory"),
    "53300": (StoreUnavailableError, "takes no more connections; lower pool_size, or raise max_connections"),
    "53400": (StoreUnavailableError, "is at a limit of its configuration"),
    "55006": (StoreBusyError, _LOCKED),
    "55P03": (StoreBusyError, _LOCKED),
    "57014": (StoreBusyError, "cancelled a statement: see statement_timeout"),
    "26000": (StoreUnavailableError, _POOLER),
    "42P05": (StoreUnavailableError, _POOLER),
}
_CLASSES: Final[dict[str, tuple[type[StoreError], str]]] = {
    "08": (StoreUnavailableError, _UNREACHABLE),
    "25": (StoreUnavailableError, _UNREACHABLE),
    "40": (StoreBusyError, _LOCKED),
    "57": (StoreUnavailableError, _UNREACHABLE),
    "58": (StoreUnavailableError, "could not read or write its files"),
    "XX": (StoreUnavailableError, "has an internal error; see its log"),
}
