"""A PgBouncer for tests: where it comes from, and that it pools by transaction."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from conveyor.core.errors import InvalidOptionError
from conveyor.testing.pg import Bouncer, BouncerUnavailableError, Server, bouncer, debian
from conveyor.testing.pg import pgbouncer as module
from conveyor.testing.pg.errors import NotUsableError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture(scope="module")
def pooled(server: Server) -> Iterator[Bouncer]:
    with bouncer(server.url, settings={"default_pool_size": "1"}) as running:
        yield running


def test_a_query_goes_through_to_the_database_it_names(server: Server, pooled: Bouncer) -> None:
    with server.database("behind") as url, psycopg.connect(pooled.through(url)) as connection:
        assert connection.execute("select current_database()").fetchone() == ("behind",)
        assert connection.info.port != urlsplit(url).port


def test_the_parameters_of_a_url_go_through_as_well(pooled: Bouncer) -> None:
    url = pooled.through("postgresql://ada@db:1/jobs?schema=t7")

    assert url.endswith("/jobs?schema=t7")
    assert url.startswith(pooled.url.rpartition("/")[0])


def test_it_pools_by_transaction(pooled: Bouncer) -> None:
    with (
        psycopg.connect(pooled.url, autocommit=True) as one,
        psycopg.connect(pooled.url, autocommit=True) as two,
    ):
        pids = [connection.execute("select pg_backend_pid()").fetchone() for connection in (one, two)]

    assert pids[0] == pids[1]


@pytest.mark.slow
def test_it_stops_and_comes_back_on_the_same_port(pooled: Bouncer) -> None:
    pooled.stop("immediate")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(pooled.url)

    pooled.start()

    psycopg.connect(pooled.url).close()


@pytest.mark.slow
def test_a_frozen_one_lets_nobody_in(pooled: Bouncer) -> None:
    with pooled.frozen(), pytest.raises(psycopg.OperationalError):
        psycopg.connect(pooled.url, connect_timeout=2)

    psycopg.connect(pooled.url).close()
    assert "process up" in pooled.log()


def test_it_is_gone_with_its_block(server: Server) -> None:
    with bouncer(server.url) as running:
        assert running.home.exists()

    assert not running.home.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(running.url)


def test_a_server_that_is_none_is_refused() -> None:
    with (
        pytest.raises(InvalidOptionError, match=r"server='mysql' cannot be used: a postgresql:// URL"),
        bouncer("mysql://db"),
    ):
        pass


def test_none_on_the_machine_and_no_debian_is_an_error_that_says_what_to_install(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "PLACES", ())

    with (
        pytest.raises(
            BouncerUnavailableError, match=r"(?s)not on PATH.*no apt-get.*apt-get install pgbouncer"
        ),
        bouncer(server.url),
    ):
        pass


def test_one_on_the_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pgbouncer").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert module._find()["program"] == str((tmp_path / "pgbouncer").resolve())


def _fake(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    (folder / name).chmod(0o755)


def test_a_package_is_fetched_once_and_its_missing_libraries_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, tools = tmp_path / "log", tmp_path / "tools"
    for package in ("tool", "libtool1"):
        (tmp_path / package / "usr").mkdir(parents=True)
        (tmp_path / package / "usr" / package).touch()
    _fake(
        tools,
        "apt-get",
        f'echo "apt-get $*" >>{log}; shift 2; for p in "$@"; do ln -s {tmp_path}/$p $p.deb; done',
    )
    _fake(tools, "apt-cache", 'echo "  Depends: libtool1"; echo "  Depends: libc6"')
    _fake(tools, "dpkg", 'mkdir -p "$3"; cp -r "$2"/. "$3"')
    _fake(tools, "ldd", 'test -e "${1%/*}/libtool1" || echo "  libtool.so.1 => not found"')
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    folders = [debian.unpacked("tool", "usr/tool") for _ in range(2)]

    assert folders == [tmp_path / "cache" / "conveyor-tests" / "tool"] * 2
    assert sorted(file.name for file in (folders[0] / "usr").iterdir()) == ["libtool1", "tool"]
    assert log.read_text("utf-8").splitlines() == [
        "apt-get -q download tool",
        "apt-get -q download libtool1",
    ]


def test_a_download_that_fails_is_tried_again_with_lists_of_our_own_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, tools = tmp_path / "log", tmp_path / "tools"
    _fake(tools, "apt-get", f'echo "$*" >>{log}; echo "E: no network" >&2; exit 100')
    _fake(tools, "dpkg", "exit 1")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    with pytest.raises(NotUsableError, match="E: no network"):
        debian.unpacked("tool", "usr/tool")

    first, second = log.read_text("utf-8").splitlines()
    assert first == "-q download tool"
    assert "Dir::State::lists" in second
    assert second.endswith("update")
    assert not (tmp_path / "cache" / "conveyor-tests" / "tool").exists()


def test_one_is_fetched_from_debian_and_answers(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        policy = subprocess.run(
            ["apt-cache", "policy", "pgbouncer"], capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        pytest.skip("this is no Debian")
    if "Candidate: (none)" in policy.stdout or "Candidate" not in policy.stdout:
        pytest.skip("the lists of apt-get do not have it")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "PLACES", ())
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    with bouncer(server.url) as running, psycopg.connect(running.url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
