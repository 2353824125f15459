"""What scripts/setup decides: which settings of the machine count, when it runs again, what if ensurepip is missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import OUTSIDE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module that works on an empty checkout in `tmp_path`."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    monkeypatch.setitem(sys.modules, "bootstrap", module)
    spec.loader.exec_module(module)
    root = tmp_path / "a checkout"
    root.mkdir()
    monkeypatch.setattr(module, "ROOT", root)
    for path in (ROOT / "pyproject.toml", *ROOT.glob("requirements*.lock")):
        (root / path.name).write_text(path.read_text())
    monkeypatch.setattr(module, "ENV", {**OUTSIDE, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    return module


def test_where_to_install_is_not_the_machines_to_say(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_NO_BINARY",
        "PIP_CONSTRAINT",
        "UV_SYSTEM_PYTHON",
        "UV_PYTHON",
        "UV_TARGET",
    ):
        monkeypatch.setenv(name, "1")
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    env = bootstrap.clean_environment()
    assert not {name for name in env if name.startswith(("PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX"))}
    assert not {name for name in env if name.endswith(("TARGET", "PREFIX", "BINARY", "CONSTRAINT", "_PYTHON"))}
    assert (env["PIP_USER"], env["PIP_REQUIRE_VIRTUALENV"]) == ("0", "0")


def test_how_to_reach_an_index_is_the_machines_to_say(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    given = {
        "PIP_INDEX_URL": "http://mirror.test/simple",
        "PIP_CERT": "ca.pem",
        "PIP_FIND_LINKS": "wheels",
        "UV_CACHE_DIR": "c",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    env = bootstrap.clean_environment()
    assert env.items() >= given.items()
    assert (env["UV_DEFAULT_INDEX"], env["SSL_CERT_FILE"]) == ("http://mirror.test/simple", "ca.pem")


def test_an_unchanged_checkout_is_ready_and_a_changed_or_moved_one_is_not(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(bootstrap.EXPLICIT_PYTHON, raising=False)
    for env in (bootstrap.MAIN, bootstrap.Environment("frameworks")):
        assert not bootstrap.is_ready(env)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", env.venv], check=True)
        env.stamp.write_text(bootstrap.wanted(env))
        assert bootstrap.is_ready(env)
        moved = bootstrap.ROOT.with_name("moved")
        with monkeypatch.context() as patch:
            patch.setattr(bootstrap, "ROOT", moved)
            assert not bootstrap.is_ready(env)
        env.locks[-1].write_text(env.locks[-1].read_text() + "\n")
        assert not bootstrap.is_ready(env)


def test_an_environment_beside_the_main_one_is_asked_for_by_name(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    monkeypatch.setattr(bootstrap, "set_up", lambda env: made.append(env.venv.name))
    monkeypatch.setattr(bootstrap, "is_ready", lambda env: env.venv.name in made)
    assert bootstrap.main([]) == 0
    assert made == [".venv"]
    assert bootstrap.main(["crewai-oldest"]) == 0
    assert made == [".venv", ".venv-crewai-oldest"]
    assert bootstrap.main(["all"]) == 0
    assert set(made) == {".venv", *(f".venv-{name}" for name in bootstrap.named())}
    assert len(made) == len(set(made))
    assert bootstrap.main(["crew"]) == 2
    assert "frameworks-oldest" in capsys.readouterr().err


def test_a_python_that_a_framework_does_not_run_on_is_named(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "NEWEST_FOR_FRAMEWORKS", (3, 10))
    with pytest.raises(bootstrap.SetupError, match="TAPPASS_SETUP_PYTHON"):
        bootstrap.set_up(bootstrap.Environment("crewai"))


def test_without_ensurepip_the_machines_pip_brings_the_locked_one(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    if subprocess.run([sys._base_executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:  # type: ignore[attr-defined]
        pytest.skip("this test's own base Python has no pip")
    works = bootstrap.works
    no_ensurepip = lambda *command: works(*command) if "venv" not in command else False  # noqa: E731
    monkeypatch.setattr(bootstrap, "works", no_ensurepip)
    bootstrap.make_venv(bootstrap.MAIN)
    shown = subprocess.check_output([bootstrap.MAIN.python, "-m", "pip", "--version"], text=True, env=OUTSIDE)
    assert str(bootstrap.MAIN.venv) in shown


def test_a_failed_step_says_which_and_what_to_do(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "base_python", lambda: "/no/such/python")
    assert bootstrap.main([]) == 1
    said = capsys.readouterr().err
    assert "/no/such/python" in said
    assert "run it again" in said


def test_a_machine_without_a_fitting_python_is_told_so(tmp_path: Path) -> None:
    for tool in ("dirname", "sh"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}" if Path(f"/bin/{tool}").exists() else f"/usr/bin/{tool}")
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(["/bin/sh", ROOT / "scripts" / "setup"], env={"PATH": os.fspath(tmp_path)},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert "no Python >= 3.11 found" in done.stderr
