"""The demo where something is missing, or somebody has had enough; its whole story is in tests/test_demo.py."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tappass.cli import console
from tappass.engine import local_install, local_model
from tests.cli.conftest import Command


@pytest.fixture
def without_weights(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    monkeypatch.setattr(local_model, "installed_weights", lambda: None)
    monkeypatch.setattr(local_install, "install", lambda: asked.append("installed") or fail())
    return asked


def fail() -> Any:
    from tappass.errors import TapPassConfigError

    raise TapPassConfigError("no network here")


def test_without_the_model_and_without_anybody_to_ask_nothing_is_installed(
    tappass: Command, without_weights: list[str]
) -> None:
    done = tappass("demo", "--out", "there")
    assert done.code == 2
    assert "not installed (98 MB)" in done.err
    assert without_weights == []
    assert not Path("there").exists()


def test_a_no_installs_nothing_and_says_how_to(
    tappass: Command, without_weights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "someone_to_ask", lambda: True)
    done = tappass("demo", stdin="n\n")
    assert done.code == 2
    assert "`tappass model install`" in done.err
    assert without_weights == []


def test_yes_installs_the_model_and_a_failure_is_one_line(tappass: Command, without_weights: list[str]) -> None:
    done = tappass("demo", "--yes", "--out", "there")
    assert (done.code, done.err) == (2, "tappass: no network here\n")
    assert without_weights == ["installed"]


def test_a_missing_extra_is_named(tappass: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else find(name))
    done = tappass("demo", "--yes")
    assert done.code == 2
    assert "`local-llm`" in done.err


@pytest.mark.alone
def test_an_interrupt_ends_the_agent_too_without_a_traceback(tmp_path: Path) -> None:
    local_install.install(progress=False)
    out = tmp_path / "there"
    command = [sys.executable, "-m", "tappass", "demo", "--yes", "--out", out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        seen = [next(line for line in running.stdout if "Five invoices" in line)]
        running.send_signal(signal.SIGINT)
        rest, err = running.communicate(timeout=60)
    assert seen
    assert running.returncode == 130
    assert "Traceback" not in rest + err
    assert "The record" not in rest
