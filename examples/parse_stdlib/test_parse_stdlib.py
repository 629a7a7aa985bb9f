"""The program on a small folder: its counts agree, also when workers, or the program itself, are killed."""

# ruff: noqa: PLR2004, S101, S603 - a test has figures, asserts, and starts the program

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM: Final = Path(__file__).resolve().parent / "main.py"
NAME: Final = "main"
FILES: Final = 40
#: Of the program, unless a test asks for others: each process takes a third of a second to begin.
OPTIONS: Final = ("--files", "4", "--processes", "1")

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty files, two of which cannot be parsed."""
    made = tmp_path / "sources"
    (made / "inner").mkdir(parents=True)
    for number in range(FILES - 2):
        text = "class A:\n    def f(self):\n        pass\n\n" * (number + 1)
        (made / "inner" / f"m{number}.py").write_text(text, encoding="utf-8")
    (made / "broken.py").write_text("def f(:\n", encoding="utf-8")
    (made / "null.py").write_bytes(b"x = 1\0\n")
    return made


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The program in this process, with `tmp_path` as the working directory."""
    # By a name that processes can import it by.
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    module = importlib.import_module(NAME)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run_main(folder: Path, *arguments: str) -> int:
        try:
            status: int = module.main([str(folder), *OPTIONS, *arguments])
        except SystemExit as exit_:  # argparse's way
            return int(exit_.code or 0)
        return status

    return run_main


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The program in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(PROGRAM), str(folder), *OPTIONS, *arguments],
        cwd=folder.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def at_work(process: subprocess.Popen[str], seconds: float) -> None:
    """Wait until the workers are started, and that long."""
    assert process.stdout is not None
    for line in process.stdout:
        if "new run" in line:
            break
    time.sleep(seconds)


def row(out: str, name: str) -> list[str]:
    """The figures of a row of the table: the plain count's, and ours."""
    [line] = [line for line in out.splitlines() if re.match(rf"│ {name} +│", line)]
    return [cell.strip() for cell in line.strip("│").split("│")[1:]]


def test_the_counts_agree_and_failures_are_listed(folder: Path) -> None:
    process = start(folder, "--processes", "2")
    out, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (0, "")
    assert f"new run: {FILES} jobs, {FILES} of them to do" in out
    assert row(out, "files") == [str(FILES)] * 2
    assert row(out, "functions") == ["741", "741"]
    assert row(out, "failures") == ["2", "2"]
    assert re.search(r"broken\.py +1 +SyntaxError", out)
    assert float(row(out, "of the plain count's seconds")[1]) > 0
    assert "The two counts agree" in out


def test_the_same_on_postgresql_with_a_worker_process_that_is_killed(
    folder: Path, empty_database: str
) -> None:
    process = start(folder, "--store", empty_database, "--kill-one", "--slow", "0.1")
    out, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (0, "")
    assert "killing worker process" in out
    assert int(row(out, "taken back from dead workers")[1]) > 0
    assert row(out, "failures") == ["2", "2"]
    assert "The two counts agree" in out


def test_a_worker_process_that_is_killed_loses_nothing_and_a_second_run_is_a_new_one(
    folder: Path, main: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    status = main(folder, "--kill-one", "--slow", "0.1")

    out = capfd.readouterr().out
    assert status == 0, out
    assert "killing worker process" in out
    assert out.count(" is ready\n") == 2
    assert int(row(out, "taken back from dead workers")[1]) > 0
    assert "The two counts agree" in out

    assert main(folder) == 0
    assert f"new run: {FILES} jobs, {FILES} of them to do" in capfd.readouterr().out


def test_a_program_that_was_killed_goes_on_where_it_was(
    folder: Path, main: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    first = start(folder, "--slow", "0.1")
    try:
        at_work(first, 1)
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=60)

    status = main(folder)

    out = capfd.readouterr().out
    assert status == 0
    found = re.search(rf"found the run that was cut off: {FILES} jobs, (\d+) of them to do", out)
    assert found
    assert 0 < int(found[1]) < FILES
    assert "The two counts agree" in out


def test_fresh_leaves_a_run_that_was_stopped(
    folder: Path, main: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    first = start(folder, "--slow", "0.5", "--workers", "1")
    at_work(first, 0)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=60)

    status = main(folder, "--fresh")

    assert first.returncode == 130
    assert "stopped; start it again to go on" in err
    assert status == 0
    assert "new run" in capfd.readouterr().out


def test_files_that_cannot_be_parsed_are_added_where_there_are_none(
    folder: Path, main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.py").unlink()
    (folder / "null.py").unlink()

    status = main(folder, "--store", "memory:")

    out = capsys.readouterr().out
    assert status == 0
    assert row(out, "failures") == ["3", "3"]
    assert re.search(r"unclosed\.txt +1 +SyntaxError", out)


def test_a_file_that_cannot_be_read_is_tried_again(
    folder: Path, main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "gone.py").symlink_to(folder / "nowhere.py")

    status = main(folder, "--store", "memory:")

    assert status == 0
    assert re.search(r"gone\.py +3 +\[Errno 2\]", capsys.readouterr().out)


def test_a_difference_is_reported_and_fails(
    folder: Path,
    main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = sys.modules[NAME]
    original = program.plain_count

    def wrong(files: Sequence[str]) -> object:
        count = original(files)
        count.parsed.popitem()
        return count

    monkeypatch.setattr(program, "plain_count", wrong)

    assert main(folder, "--store", "memory:") == 1
    assert "THE TWO COUNTS DIFFER, on 1 files" in capsys.readouterr().out


def test_the_handler_imports_nothing_of_what_only_the_program_needs() -> None:
    code = "import sys, parsing; print(*{'argparse', 'main', 'rich'}.intersection(sys.modules))"

    out = subprocess.check_output([sys.executable, "-c", code], cwd=PROGRAM.parent, text=True)

    assert out == "\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--store", "nosuch:thing"], "no installed store serves nosuch: URLs"),
        (["--store", "jobs.db"], "a store URL begins with a scheme"),
        (["--store", "sqlite:///no/such/folder/jobs.db"], "no/such/folder"),
        (["--store", "memory:", "--kill-one"], "--kill-one needs a store that several processes can share"),
        (
            ["--store", "memory:", "--workers", "1"],
            "--workers needs a store that several processes can share",
        ),
        (["--processes", "0"], "must be 1 or more"),
        (["--slow", "-1"], "must not be negative"),
    ],
)
def test_what_cannot_be_done_is_reported(
    folder: Path,
    main: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    assert main(folder, *arguments) == 2
    assert told in capsys.readouterr().err


def test_a_folder_without_python_files_is_reported(
    tmp_path: Path, main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()

    assert main(empty) == 2
    assert "no Python files in" in capsys.readouterr().err
    assert main(tmp_path / "nowhere") == 2
    assert "is not a folder" in capsys.readouterr().err
