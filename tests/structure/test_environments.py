"""Where tests/adapters runs: each module somewhere, each extra at its newest and oldest, nothing unseen."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from scripts import environments
from scripts.environments import ENVIRONMENTS, EXTRAS, ROOT, all_modules, needs

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OURS = {"embedded", "local-llm", "postgres", "server", "speed", "verify"}
MODULES = all_modules()


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setitem(sys.modules, "environments", environments)
    spec = importlib.util.spec_from_file_location("checks", ROOT / "scripts" / "checks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_framework_is_promised_at_its_newest_and_at_its_oldest() -> None:
    assert set(PROJECT["project"]["optional-dependencies"]) - OURS == EXTRAS
    for oldest in (False, True):
        promised = [extra for env in ENVIRONMENTS.values() if env.oldest is oldest for extra in env.extras]
        assert sorted(promised) == sorted(EXTRAS)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_every_module_runs_somewhere_and_skips_nothing(module: Path) -> None:
    running = [env for env in ENVIRONMENTS.values() if module in env.modules()]
    assert {env.oldest for env in running} == {False, True}, f"no environment promises all of {set(needs(module))}"
    assert "importorskip" not in module.read_text()


@pytest.mark.parametrize(
    ("module", "extras"),
    [
        ("test_mcp.py", {"mcp"}),
        ("test_mcp_server.py", {"mcp"}),
        ("test_fastmcp.py", {"fastmcp"}),
        ("test_openai_agents_streams.py", {"openai-agents"}),
        ("test_openai_responses.py", {"openai"}),
        ("temporal/test_replay.py", {"temporal"}),
        ("google_adk/test_openai.py", {"google-adk", "openai"}),
        ("five_processes/test_any.py", {"a2a", "fastapi", "fastmcp", "langchain", "mcp", "temporal"}),
        ("conformance/test_rows.py", set()),
        ("test_mcpx.py", set()),
    ],
)
def test_a_modules_name_tells_what_it_needs(module: str, extras: set[str]) -> None:
    assert needs(environments.TESTS / module) == extras


def test_all_of_it_names_every_module_and_leaves_no_environment_out(checks: ModuleType) -> None:
    runs = checks.all_pytest_runs()
    assert set(ENVIRONMENTS) <= set(runs)
    assert list(runs)[-1] == "tests"
    for name, env in ENVIRONMENTS.items():
        assert runs[name][0] == str(ROOT / f".venv-{name}" / "bin" / "python")
        assert [word for word in runs[name] if word.endswith(".py")] == [str(module) for module in env.modules()]
    for name in ("tests alone", "tests"):
        assert f"--ignore={environments.TESTS}" in runs[name]


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["tests/cli"], {"tests": ["tests/cli"]}),
        (["-k", "tests"], {"tests": ["-k", "tests"]}),
        (["tests/adapters"], {"frameworks": ["tests/adapters"], "crewai": ["tests/adapters"]}),
        (
            ["-k", "docs", "tests/adapters/test_environment.py::test_it"],
            {
                "frameworks": ["-k", "docs", "tests/adapters/test_environment.py::test_it"],
                "crewai": ["-k", "docs", "tests/adapters/test_environment.py::test_it"],
            },
        ),
        (["--in", "crewai-oldest", "-x", "tests/adapters"], {"crewai-oldest": ["-x", "tests/adapters"]}),
        (["--in", "all", "tests/adapters"], {name: ["tests/adapters"] for name in ENVIRONMENTS}),
        (
            ["-x", "tests/cli", "tests/adapters", "--in", "frameworks"],
            {"frameworks": ["-x", "tests/adapters"], "tests": ["-x", "tests/cli"]},
        ),
    ],
)
def test_paths_are_run_where_their_frameworks_are(
    checks: ModuleType, words: list[str], runs: dict[str, list[str]]
) -> None:
    found = {
        name: [word for word in command[3:] if not word.startswith("--ignore")]
        for name, command in checks.asked_pytest_runs(words).items()
    }
    assert found == runs


@pytest.mark.parametrize("words", [["--in", "crew", "tests/adapters"], ["--in"]])
def test_an_environment_that_is_not_there_is_refused(checks: ModuleType, words: list[str]) -> None:
    with pytest.raises(SystemExit, match="frameworks-oldest"):
        checks.asked_pytest_runs(words)


def test_a_module_is_not_run_where_its_framework_is_not(checks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "needs_of", lambda word: frozenset({"crewai"}))
    assert set(checks.asked_pytest_runs(["tests/adapters/test_environment.py"])) == {"crewai"}
    with pytest.raises(SystemExit, match="none of frameworks runs"):
        checks.asked_pytest_runs(["--in", "frameworks", "tests/adapters/test_environment.py"])


def test_this_environment_promises_nothing_of_theirs() -> None:
    if environments.here() is None and not environments.promised():
        return
    raise AssertionError("a framework is in .venv: its tests would run here by chance")


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_the_page_on_installing_names_each_extra_with_its_floors(extra: str) -> None:
    (row,) = re.findall(rf"^\| `{extra}` \| (.*) \|$", (ROOT / "docs" / "install.md").read_text(), re.M)
    for name, floor in environments.requirements(extra).items():
        assert f"{name} {floor}" in row


def test_an_environment_that_runs_no_test_or_is_not_there_fails(checks: ModuleType) -> None:
    nothing_collected = [sys.executable, "-c", f"raise SystemExit({checks.NO_TESTS_COLLECTED})"]
    assert not checks.run_pytest("frameworks", nothing_collected)
    assert not checks.run_pytest("crewai", [str(ROOT / ".venv-none" / "bin" / "python"), "-m", "pytest"])
    assert checks.run_pytest("crewai", [sys.executable, "-c", ""])


def test_where_nothing_is_promised_and_no_framework_is_installed_nothing_is_collected() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", environments.TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout + done.stderr
