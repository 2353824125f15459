"""The net under all commands: exit codes, one line for any error, a start that loads little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tappass import __version__
from tappass.cli import exits
from tappass.errors import PolicyBlockError, TapPassConfigError, TapPassConnectionError, TapPassError
from tests.cli.conftest import Command

COMMANDS = ("init", "demo", "doctor", "policy", "sessions", "audit", "model")


def test_help_names_every_command_and_loads_no_engine(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['tappass', '--help']\nfrom tappass.__main__ import main\ntry:\n    main()\n"
    code += "except SystemExit as end:\n    assert not end.code\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    shown, _, loaded = done.stdout.partition("LOADED")
    assert all(f" {command} " in shown for command in COMMANDS)
    heavy = {"sqlalchemy", "alembic", "sqlite3", "cel_expr_python", "re2", "yaml", "httpx", "anyio", "cryptography"}
    assert heavy.isdisjoint(loaded.split())
    assert not [name for name in loaded.split() if name.startswith("tappass.engine")]


def test_version(tappass: Command) -> None:
    assert tappass("--version").out == f"{__version__}\n"


@pytest.mark.parametrize("words", [[], ["policy"], ["audit"], ["model"]])
def test_a_command_that_lacks_its_second_word_shows_help(tappass: Command, words: list[str]) -> None:
    shown = tappass(*words)
    assert shown.code == 2
    assert "Usage" in shown.out + shown.err


@pytest.mark.parametrize("words", [["nonsense"], ["sessions", "--nonsense"], ["audit", "tail", "-n", "x"]])
def test_a_usage_error_exits_with_2(tappass: Command, words: list[str]) -> None:
    shown = tappass(*words)
    assert shown.code == 2
    assert "Traceback" not in shown.err


def test_directory_runs_the_command_there(recorded: str, tappass: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Path.cwd()
    monkeypatch.chdir("/")
    assert tappass("-C", project, "sessions", "show", "--json").json["session"]["session_id"] == recorded
    assert tappass("-C", project / "nowhere", "sessions").code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TapPassConfigError("the policy is wrong"), 2),
        (TapPassConnectionError("the database cannot be read"), 3),
        (PolicyBlockError("blocked by rule `x`"), 1),
        (TapPassError("something else"), 2),
    ],
)
def test_each_error_is_one_line_and_a_documented_code(
    tappass: Command, monkeypatch: pytest.MonkeyPatch, error: TapPassError, code: int
) -> None:
    fail_with(monkeypatch, error)
    shown = tappass("audit", "key")
    assert (shown.code, shown.out, shown.err) == (code, "", f"tappass: {error}\n")


def test_what_nobody_foresaw_is_one_line_that_says_it_is_a_bug(
    tappass: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, ZeroDivisionError("by \x1bzero\n"))
    shown = tappass("audit", "key")
    assert shown.code == 2
    assert shown.err.startswith(r"tappass: this is a bug in tappass (ZeroDivisionError: by \x1bzero\n); TAPPASS_DEBUG")
    assert shown.err.count("\n") == 1
    monkeypatch.setenv("TAPPASS_DEBUG", "1")
    assert "Traceback" in tappass("audit", "key").err


def test_an_interrupt_exits_with_130(tappass: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    shown = tappass("audit", "key")
    assert shown.code == 130
    assert "Traceback" not in shown.err


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail() -> Any:
        raise error

    monkeypatch.setattr("tappass.cli.audit.here", fail)


def test_a_list_of_problems_is_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    from tappass.engine.policy.problems import Problem, failed

    assert exits.report(failed([Problem("a.yaml", 1, 2, "no\x1b"), Problem("b.yaml", 0, 0, "nor this")])) == 2
    heading, *problems = capsys.readouterr().err.splitlines()
    assert heading == "tappass: the policy cannot be used:"
    assert problems == [r"  a.yaml:1:2: no\x1b", "  b.yaml: nor this"]


def test_a_plane_that_cannot_be_read_exits_with_3(project: Path, program: Command) -> None:
    Path(".tappass").mkdir()
    Path(".tappass/tappass.db").write_bytes(b"this is no database" * 100)
    done = program("sessions")
    assert done.code == 3
    assert done.err.count("\n") == 1


def test_a_url_of_a_server_is_refused_without_its_secrets(program: Command) -> None:
    done = program("sessions", TAPPASS_URL="https://ada:hunter2@tappass.example")
    assert done.code == 2
    assert "hunter2" not in done.err


def test_a_reader_that_stops_early_sees_no_traceback(recorded: str) -> None:
    command = [sys.executable, "-m", "tappass", "audit", "tail", "-n", "1000", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_letters_is_no_reason_to_fail(recorded: str, program: Command, encoding: str) -> None:
    assert program("sessions", "show", PYTHONIOENCODING=encoding).code == 0
