"""What every test gets: both event loops, a home and a working directory of its own, the same random examples in CI."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.logged import Logged, logged

ROOT = Path(__file__).resolve().parent.parent
# For tests that call installers: their caches and settings lie in the real home.
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith(("TAPPASS_", "PYTEST_", "COV_"))}

hypothesis.settings.register_profile("developer", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "developer")


@pytest.fixture(scope="session", autouse=True)
def _no_log_line_shows_a_key() -> Iterator[Logged]:
    """After the last test of a process, all that any of them logged there is looked through for every key they used.

    Servers that tests start in processes of their own are looked at when they end (`tests.serving`).
    """
    with logged() as watch:
        yield watch
    assert not (leaks := watch.leaks()), leaks


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _own_home_and_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _no_log_line_shows_a_key: Logged
) -> Iterator[None]:
    """Nobody's settings reach a test, and no test reaches anybody's: not ~/.config, not a key, not a model account."""
    for name in os.environ:
        if name.startswith(("TAPPASS_", "XDG_")) or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    home, directory = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    directory.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.chdir(directory)
    yield
    # What a test gave a model's server, or a plane, in its environment.
    for name, value in os.environ.items():
        if name.endswith("_KEY"):
            _no_log_line_shows_a_key.made(value)
    # Only what the test loaded: structure tests run without the package's own imports.
    if (loaded := sys.modules.get("tappass.session.registry")) is not None:
        loaded.registry.shutdown()
    if (loaded := sys.modules.get("tappass.toolspec")) is not None:
        loaded.release_names()
