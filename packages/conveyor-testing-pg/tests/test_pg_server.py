"""A server for tests: it stops, crashes, freezes, is never root, and leaves nothing behind."""

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conveyor.core.errors import InvalidOptionError
from conveyor.testing.pg import (
    Server,
    ServiceError,
    account,
    get_server,
    postgres,
    private_server,
    supervisor,
)
from conveyor.testing.pg.account import Account, namespace, unprivileged, works
from conveyor.testing.pg.errors import NotUsableError
from conveyor.testing.pg.supervised import supervise
from conveyor.testing.pg.supervisor import Supervisor, alive

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_server")]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with private_server() as server:
        yield server


def postmaster(server: Server) -> int:
    assert server.home is not None
    return int((server.home / "data" / "postmaster.pid").read_text("utf-8").splitlines()[0])


def soon(check: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_what_was_committed_survives_a_restart(server: Server, mode: str) -> None:
    with server.database(f"restart_{mode}") as url:
        with psycopg.connect(url) as connection:
            connection.execute("create table kept as select 42 as answer")
        with psycopg.connect(url) as connection:
            server.restart(mode)  # type: ignore[arg-type]
            with pytest.raises(psycopg.OperationalError):
                connection.execute("select 1")
            connection.close()

        with psycopg.connect(url) as connection:
            assert connection.execute("select answer from kept").fetchone() == (42,)


@pytest.mark.slow
def test_a_stopped_server_refuses_until_it_is_started_on_the_same_port(server: Server) -> None:
    server.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url)
    with pytest.raises(ServiceError, match="does not run"):
        server.stop()

    server.start()

    with pytest.raises(ServiceError, match="runs already"):
        server.start()
    with psycopg.connect(server.url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.slow
def test_a_frozen_backend_says_nothing_until_it_is_thawed(server: Server) -> None:
    with psycopg.connect(server.url) as connection:
        pid = connection.info.backend_pid
        with server.frozen(pid):
            connection.pgconn.send_query(b"select 1")
            time.sleep(0.03)
            connection.pgconn.consume_input()
            busy = connection.pgconn.is_busy()
            with psycopg.connect(server.url) as other:
                assert other.execute("select 1").fetchone() == (1,)

        results = []
        while (result := connection.pgconn.get_result()) is not None:
            results.append(result.get_value(0, 0))

    assert busy
    assert results == [b"1"]


def test_a_mode_that_is_none_is_refused_before_anything_is_done(server: Server) -> None:
    with pytest.raises(InvalidOptionError, match="mode='smart'"):
        server.stop("smart")  # type: ignore[arg-type]

    psycopg.connect(server.url).close()


def test_a_server_of_the_user_is_never_stopped() -> None:
    server = Server(source="url", url="postgresql://db/postgres")

    for harm in (server.stop, server.start, server.restart, server.close):
        with pytest.raises(ServiceError, match="CONVEYOR_TEST_PG_URL"):
            harm()
    with pytest.raises(ServiceError), server.frozen(1):
        pass


def test_the_settings_are_those_given() -> None:
    with private_server(durable=False, settings={"max_connections": "17"}) as server:
        with psycopg.connect(server.url) as connection:
            assert connection.execute("show max_connections").fetchone() == ("17",)
            assert connection.execute("show fsync").fetchone() == ("off",)
        assert server.home is not None
    assert not server.home.exists()
    with pytest.raises(ServiceError, match="gone"):
        server.stop()


def test_initdb_runs_once_for_all_servers_of_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(postgres, "unprivileged", Account)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, script in {
        "postgres": "echo 15.0",
        "initdb": 'mkdir "$2"; echo made; echo 15 >"$2/PG_VERSION"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        (programs / name).chmod(0o755)

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        postgres.Postgres(tmp_path / name, str(programs), str(programs), {})

    logs = [tmp_path / name / "postgres.log" for name in ("one", "two")]
    assert [log.exists() and log.read_text("utf-8") for log in logs] == ["made\n", False]
    assert (tmp_path / "two" / "data" / "PG_VERSION").read_text("utf-8") == "15\n"


def test_what_keeps_a_server_is_light() -> None:
    program = "import sys, conveyor.testing.pg.supervisor, conveyor.testing.pg.postgres\nprint(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert {"psycopg", "conveyor.core", "testcontainers"}.isdisjoint(done.stdout.split())


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_temporary", lambda: str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    options: dict[str, Any] = {
        "folder": str(tmp_path / "no-such-folder"),
        "root": str(tmp_path),
        "settings": {},
    }

    with pytest.raises(NotUsableError, match=r"(?s)did not start.*no-such-folder"):
        supervise("postgres", os.getpid(), options)
    with pytest.raises((FileNotFoundError, ServiceError)):
        Supervisor("postgres", options)

    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_setting_that_does_not_exist_is_said_from_the_log() -> None:
    with pytest.raises(Exception, match="no_such_setting"), private_server(settings={"no_such_setting": "1"}):
        pass


def test_the_databases_of_tests_are_dropped_with_whoever_is_connected(server: Server) -> None:
    with server.database("Odd name") as url:
        left_open = psycopg.connect(url)
    left_open.close()

    with psycopg.connect(server.url) as connection:
        assert connection.execute("select 1 from pg_database where datname = 'Odd name'").fetchone() is None


def test_the_shared_server_is_one_for_all_who_name_its_folder(tmp_path: Path) -> None:
    assert get_server(tmp_path / "here") == get_server(tmp_path / "here")


# -- who it runs as --------------------------------------------------------------------------------


def test_a_server_that_root_starts_does_not_run_as_root_where_it_lives(server: Server) -> None:
    if os.geteuid() != 0:
        assert unprivileged() == Account()
        return
    status = Path(f"/proc/{postmaster(server)}/uid_map").read_text("utf-8").split()

    outside, inside = int(status[1]), int(status[0])
    assert (inside, outside) == (pwd.getpwnam("nobody").pw_uid, 0)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@needs_root
def test_root_without_namespaces_runs_it_as_an_account_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "unshare"
    fake.write_text("#!/bin/sh\nexit 1\n", "utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with private_server(durable=False) as server:
        assert Path(f"/proc/{postmaster(server)}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
        with psycopg.connect(server.url) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        assert server.home is not None
    assert not server.home.exists()


@needs_root
def test_programs_in_a_closed_folder_are_copied_with_their_libraries(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "wheel" / "bin").mkdir(parents=True)
    (closed / "wheel" / "bin" / "postgres").touch()
    (closed / "wheel.libs").mkdir()
    (closed / "wheel.libs" / "libz.so").touch()
    closed.chmod(0o700)
    nobody = Account(user=65534, group=65534)

    folder = nobody.reach(closed / "wheel" / "bin", closed / "wheel", tmp_path / "copy")

    assert folder == tmp_path / "copy" / "wheel" / "bin"
    assert (folder / "postgres").exists()
    assert (tmp_path / "copy" / "wheel.libs" / "libz.so").exists()


def test_somebody_who_is_not_root_runs_it_as_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert unprivileged() == Account()


def test_root_without_any_other_account_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(account, "ACCOUNTS", ("no-such-account",))

    with pytest.raises(NotUsableError, match="no-such-account"):
        unprivileged()


def test_all_of_it_works_for_somebody_who_is_not_root() -> None:
    prefix = namespace(65534, 65534) if os.geteuid() == 0 else ()
    if not works(prefix):
        pytest.skip("root cannot be somebody else here who may read this Python")
    program = "import os, conveyor.testing.pg as t\nwith t.private_server() as s: print(os.geteuid(), s.url)"

    done = subprocess.run(
        [*prefix, sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    user, _, url = done.stdout.strip().partition(" ")
    assert user != "0", done.stderr
    assert url.startswith("postgresql://"), done.stderr


# -- what it leaves behind -------------------------------------------------------------------------

SUPERVISOR = "conveyor.testing.pg.supervisor"
OWNER = """\
import pathlib, sys, time
from conveyor.testing.pg import get_server, private_server

shared = get_server(pathlib.Path(sys.argv[1]))
with private_server() as server:
    print(shared.home, server.home, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])  # SIGTERM ends it as SIGKILL does
def test_a_run_that_is_killed_leaves_no_process_and_no_folder(number: int, tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "shared")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert owner.stdout is not None
    homes = [Path(home) for home in owner.stdout.readline().split()]
    servers = [int((home / "data" / "postmaster.pid").read_text("utf-8").splitlines()[0]) for home in homes]
    assert all(map(alive, servers))
    assert _supervisors_of(owner.pid)

    owner.send_signal(number)

    # the owner is not waited for yet: it is a zombie, as under an init that reaps late
    try:
        assert soon(lambda: not any(map(alive, servers)), 3)
        assert soon(lambda: not any(home.exists() for home in homes), 3)
        assert len(homes) == 2
        assert soon(lambda: not _supervisors_of(owner.pid), 3)
    finally:
        owner.wait()
        owner.stdout.close()


def _supervisors_of(owner: int) -> list[str]:
    found = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [
        line for line in found.splitlines() if f" -m {SUPERVISOR} " in line and f'"owner": {owner},' in line
    ]
