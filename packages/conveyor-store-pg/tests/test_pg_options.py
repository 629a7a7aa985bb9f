"""What may be said about a store, and what is shown of it."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import traceback
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from conveyor.conformance.kit.anything import wrongly_taken
from conveyor.core import open_store
from conveyor.core.errors import InvalidOptionError
from conveyor.store.pg import PgStore
from conveyor.store.pg.errors import Retryability, cause, retryability, store_error
from conveyor.store.pg.options import Options, Target, parsed

URL = "postgresql://ada:s3cret@db.example.com:5433/app"


def test_the_defaults_are_those_of_the_documentation() -> None:
    options = Options.checked(URL)

    assert options.schema == "public"
    assert options.pool_size == 10
    assert options.operation_timeout == timedelta(seconds=10)
    assert options.auto_migrate
    assert options.notify
    assert options.listen is options.target
    assert options.prepare is None


def test_options_behind_the_question_mark_are_ours_or_libpqs() -> None:
    dsn, found = parsed(
        URL + "?schema=jobs&pool_size=3&sslmode=require&notify=off&prepare=no", {"pool_size": 5}
    )
    options = Options.checked(dsn, **found)

    assert (options.schema, options.pool_size, options.notify, options.prepare) == ("jobs", 5, False, False)
    assert options.target.parameters["sslmode"] == "require"
    assert options.target.parameters["host"] == "db.example.com"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://h/db", {"host": "h", "dbname": "db"}),
        ("POSTGRESQL://h/db", None),
        ("postgresql:///db?host=/run/postgresql", {"host": "/run/postgresql", "dbname": "db"}),
        ("postgresql://%2Frun%2Fpostgresql/db", {"host": "/run/postgresql", "dbname": "db"}),
        ("postgresql://a:1,b:2/db", {"host": "a,b", "port": "1,2", "dbname": "db"}),
        ("postgresql://u:p%3F%40@h/db?application_name=a+b", {"password": "p?@", "application_name": "a+b"}),
        ("postgresql://u:p?x=1@h/db?schema=s", {"password": "p?x=1", "host": "h"}),
        ("postgresql://h/db?options=-c%20geqo%3Doff", {"options": "-c geqo=off"}),
    ],
)
def test_a_url_means_what_it_means_to_libpq(url: str, expected: dict[str, str] | None) -> None:
    if expected is None:
        with pytest.raises(InvalidOptionError):
            Options.checked(parsed(url, {})[0])
        return
    dsn, found = parsed(url, {})
    parameters = Options.checked(dsn, **found).target.parameters

    assert {name: parameters[name] for name in expected} == expected


def test_a_dsn_may_be_words() -> None:
    target = Options.checked("host=/run/postgresql dbname=app password='s3 cret'").target

    assert target.place == "/run/postgresql/app"
    assert target.parameters["password"] == "s3 cret"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"schema": ""}, "schema"),
        ({"schema": "a" * 64}, "schema"),
        ({"schema": "pg_jobs"}, "schema"),
        ({"schema": 'a"b'}, "schema"),
        ({"schema": "a%b"}, "schema"),
        ({"schema": "a\0b"}, "schema"),
        ({"schema": 7}, "schema"),
        ({"pool_size": 0}, "pool_size"),
        ({"pool_size": True}, "pool_size"),
        ({"pool_size": "many"}, "pool_size"),
        ({"pool_size": 1_001}, "pool_size"),
        ({"operation_timeout": 0}, "operation_timeout"),
        ({"operation_timeout": "soon"}, "operation_timeout"),
        ({"auto_migrate": "maybe"}, "auto_migrate"),
        ({"notify": 2}, "notify"),
        ({"prepare": "sometimes"}, "prepare"),
        ({"listen_dsn": "nonsense"}, "listen_dsn"),
        ({"listen_dsn": URL + "?schema=x"}, "listen_dsn"),
    ],
)
def test_a_bad_option_is_refused_by_name(options: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Options.checked(URL, **options)

    assert caught.value.option == name


def test_what_a_parameter_cannot_be_is_refused_by_its_name() -> None:
    takes = {
        "dsn": set[str](),
        "pool": {"None"},
        "schema": {"text", "duration", "state"},
        "pool_size": {"5"},
        "operation_timeout": {"5", "1.5", "2**31", "duration", "timedelta"},
        "auto_migrate": {"True"},
        "notify": {"True"},
        "listen_dsn": {"None"},
        "prepare": {"None", "True"},
    }

    assert wrongly_taken(PgStore, {"dsn": URL}, takes) == []
    assert wrongly_taken(PgStore.from_url, {}, {"url": ()}) == []
    assert inspect.signature(PgStore).parameters.keys() == takes.keys()


def test_a_store_is_given_a_dsn_or_a_pool_and_shows_no_password() -> None:
    pool = AsyncConnectionPool(URL, kwargs={"dbname": "other"}, max_size=4, open=False)

    given = Options.checked(pool=pool)
    with pytest.raises(InvalidOptionError) as both:
        Options.checked(URL, pool=pool)
    with pytest.raises(InvalidOptionError) as neither:
        Options.checked()

    assert given.target.place.startswith("db.example.com:5433/other")
    assert given.listen is None
    assert given.pool_size == 4
    assert Options.checked(pool=pool, pool_size=2).pool_size == 2
    assert [both.value.option, neither.value.option] == ["pool", "dsn"]
    assert "s3cret" not in repr(given) + str(both.value) + repr(PgStore(pool=pool))
    assert given.target.clean("is s3cret") == "is ***"


@pytest.mark.parametrize("name", ["schema", "pool_size", "listen_dsn"])
def test_an_option_of_the_store_in_a_bare_dsn_is_refused(name: str) -> None:
    with pytest.raises(InvalidOptionError, match="keyword"):
        Options.checked(f"{URL}?{name}=1")


def test_an_unknown_option_is_refused_without_its_value() -> None:
    with pytest.raises(InvalidOptionError, match=r"pasword.*the options of postgresql are") as caught:
        parsed(URL + "?pasword=hunter2", {})
    assert "hunter2" not in str(caught.value)

    with pytest.raises(InvalidOptionError, match="colour"):
        parsed(URL, {"colour": "red"})


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:s3cret@h:port/db",
        "postgresql://u:s3cret@[::1/db",
        "postgresql://u:s3cret%zz@h/db",
        "postgresql://u:s3cret@h:99999999/db",
        "host=h password=s3cret with spaces",
        "s3cret",
        "postgresql://u:pa@s3cret@h/db",
        "postgresql://u:1/@s3cret@h/db",
        "postgresql://u:1/2@s3cret",
        "postgresql://u:1/2?s3cret=@h/db",
        "postgresql://u:p?x@s3cret@h/db?schema=a",
        "postgresql://u:s3cret%00@h/db",
        "host=u:s3cret@h dbname=app",
        "host=h dbname=postgresql://u:s3cret@h/db",
        "host=h password=s3cret colour=s3cret",
        b"postgresql://u:s3cret@h/db",
        "postgresql://u:s3cret\ud800@h/db",
        "mysql://u:s3cret@h/db",
    ],
)
def test_a_malformed_dsn_is_refused_and_its_password_shown_nowhere(dsn: Any) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Options.checked(dsn)
    with pytest.raises(InvalidOptionError) as listening:
        Options.checked(URL, listen_dsn=dsn)
    with pytest.raises(InvalidOptionError) as opening:
        PgStore.from_url(dsn)

    for error in (caught.value, listening.value, opening.value):
        check_hidden(error)


def check_hidden(error: InvalidOptionError) -> None:
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(error) + str(error.value)
    assert "s3cret" not in shown
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize("name", ["password", "passwd", "colour"])
def test_a_keyword_that_is_not_known_is_refused_without_its_value(name: str) -> None:
    given: dict[str, Any] = {name: "s3cret"}
    with pytest.raises(InvalidOptionError, match=f"{name}=.*the options of postgresql are") as caught:
        open_store("postgresql://ada@h/db", **given)

    check_hidden(caught.value)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:pa%40ss@h/db",
        "postgresql://h/db?user=me@tenant&application_name=a@b",
        "postgresql://h/a%40b",
        "host=@abstract dbname=app password=a@b",
    ],
)
def test_an_at_sign_may_stand_where_it_can_be_nothing_else(dsn: str) -> None:
    assert "@" in str(Options.checked(dsn).target.parameters)


def test_the_password_is_in_no_repr() -> None:
    options = Options.checked(URL, listen_dsn=URL)

    assert "s3cret" not in repr(options) + repr(options.target) + str(options) + options.target.place
    assert options.target.place == "db.example.com:5433/app"
    with pytest.raises(TypeError):
        pickle.dumps(options)


#: A machine without libpq, and without psycopg's builds that bring it or are made for it.
NO_DRIVER = """
import ctypes.util, sys
from conveyor.core import open_store
sys.modules["psycopg_c"] = sys.modules["psycopg_binary"] = None
ctypes.util.find_library = lambda name: None
open_store("postgresql://localhost/app")
"""


@pytest.mark.slow
def test_without_any_build_of_the_driver_the_error_says_what_to_install() -> None:
    ended = subprocess.run([sys.executable, "-c", NO_DRIVER], capture_output=True, text=True, check=False)

    last = ended.stderr[ended.stderr.index("UnknownStoreError") :]
    assert "pip install 'psycopg[binary]'" in last
    assert "psycopg[c]" in last


@pytest.mark.parametrize("dsn", [None, 7, "", " ", b"postgresql://h/db"])
def test_what_is_no_text_is_no_dsn(dsn: object) -> None:
    with pytest.raises(InvalidOptionError):
        Options.checked(dsn)


def test_an_error_with_the_password_in_it_is_reported_without() -> None:
    target = Target.parsed("postgresql://ada:s3%20cret@h/db", "dsn")
    error = psycopg.OperationalError('unexpected spaces found in "s3 cret"')

    shown = store_error(error, target)

    assert "s3 cret" not in str(shown)
    assert cause(error, target) is None
    assert cause(psycopg.OperationalError("gone"), target) is not None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("40001", Retryability.RETRYABLE),
        ("40P01", Retryability.RETRYABLE),
        ("55P03", Retryability.RETRYABLE),
        ("53300", Retryability.RETRYABLE),
        ("57P01", Retryability.CONNECTION_LOST),
        ("57P03", Retryability.CONNECTION_LOST),
        ("08006", Retryability.CONNECTION_LOST),
        ("08P01", Retryability.CONNECTION_LOST),
        ("40003", Retryability.CONNECTION_LOST),
        ("53100", Retryability.REFUSED),
        ("25006", Retryability.REFUSED),
        ("42501", Retryability.REFUSED),
        ("23505", Retryability.REFUSED),
        ("28P01", Retryability.REFUSED),
    ],
)
def test_each_code_has_its_retryability(code: str, expected: Retryability) -> None:
    error = psycopg.OperationalError("as it may be")
    error.sqlstate = code

    assert retryability(error) is expected


@pytest.mark.parametrize(
    ("code", "about_the_server"),
    [
        ("22P05", False),
        ("22021", False),
        ("23505", False),
        ("54000", False),
        ("42501", True),
        ("42P01", True),
        ("26000", True),
        ("53100", True),
        ("25006", True),
        ("08006", True),
    ],
)
def test_only_what_a_call_was_given_is_refused_for_good(code: str, *, about_the_server: bool) -> None:
    """A worker gives up an outcome that is refused for good, and no other."""
    error = psycopg.OperationalError("as it may be")
    error.sqlstate = code

    assert store_error(error, Target.parsed("postgresql://h/db", "dsn")).retryable is about_the_server


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ('FATAL:  database "nope" does not exist', Retryability.REFUSED),
        ('FATAL:  role "nope" does not exist', Retryability.REFUSED),
        ('FATAL:  password authentication failed for user "ada"', Retryability.REFUSED),
        ("FATAL:  the database system is starting up", Retryability.CONNECTION_LOST),
        ("FATAL:  the database system is not yet accepting connections", Retryability.CONNECTION_LOST),
        ("FATAL:  sorry, too many clients already", Retryability.RETRYABLE),
        ("server closed the connection unexpectedly", Retryability.CONNECTION_LOST),
        ("Connection refused", Retryability.CONNECTION_LOST),
        ("session is read-only", Retryability.REFUSED),
    ],
)
def test_what_libpq_says_in_words_is_understood(words: str, expected: Retryability) -> None:
    assert retryability(psycopg.OperationalError(words)) is expected
