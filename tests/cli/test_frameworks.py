"""`tappass doctor` on frameworks: which are installed, supported, guarded by what, and what cannot be together."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

import pytest
from packaging.version import Version

import tappass as package
from scripts.environments import ENVIRONMENTS, EXTRAS, requirements
from tappass.cli import frameworks
from tappass.cli.frameworks import FRAMEWORKS
from tests.cli.conftest import Command

INSTALLED = {"joserfc": "1.0", "cryptography": "50.0"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let these packages be installed, and ask for these others; every guard is there."""
    monkeypatch.setattr(package, "__all__", [*package.__all__, *(name for row in FRAMEWORKS for name in row.guards)])
    real = metadata.requires

    def put(versions: dict[str, str], **asking: list[str]) -> None:
        asked = {name.replace("_", "-"): lines for name, lines in asking.items()}
        monkeypatch.setattr(frameworks, "version_of", (INSTALLED | versions).get)
        monkeypatch.setattr(metadata, "requires", lambda name: real(name) if name == "tappass" else asked.get(name))

    return put


def doctor(tappass: Command) -> dict[str, dict[str, Any]]:
    return {check["what"]: check for check in tappass("doctor", "--json").json}


def test_only_frameworks_that_are_installed_are_named(tappass: Command, installed: Any) -> None:
    installed({})
    assert not [what for what in doctor(tappass) if what.startswith("framework")]
    installed({"crewai": "1.15.30"})
    assert [what for what in doctor(tappass) if what.startswith("framework")] == ["framework crewai"]


@pytest.mark.parametrize("row", FRAMEWORKS, ids=lambda row: row.package)
def test_a_supported_version_is_named_with_its_guards_and_their_hook(
    tappass: Command, installed: Any, row: Any
) -> None:
    for version in (row.newest, requirements(row.extra)[row.package]):
        installed(dict.fromkeys(requirements(row.extra), "99") | {row.package: version})
        found = doctor(tappass)[f"framework {row.package}"]
        assert found["state"] == "ok"
        assert found["found"].startswith(f"{version}, supported")
        assert row.hook in found["found"]
        assert all(guard in found["found"] for guard in row.guards)


def test_a_version_below_the_floor_is_not_supported(tappass: Command, installed: Any) -> None:
    installed({"mcp": "1.29.1"})
    found = doctor(tappass)["framework mcp"]
    assert (found["state"], found["found"]) == ("note", "1.29.1, not supported")
    assert f"mcp>={requirements('mcp')['mcp']}" in found["remedy"]


def test_a_version_that_nobody_tested_is_noted(tappass: Command, installed: Any) -> None:
    installed({"temporalio": "99.0"})
    found = doctor(tappass)["framework temporalio"]
    assert found["state"] == "note"
    assert "newer than the newest tested" in found["found"]


def test_a_framework_without_the_rest_of_its_extra_is_told_how_to_get_it(
    tappass: Command, installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed({"fastapi": "0.165.0"})
    monkeypatch.setattr(frameworks, "version_of", {"fastapi": "0.165.0", "cryptography": "50"}.get)
    found = doctor(tappass)["framework fastapi"]
    assert found["state"] == "note"
    assert "without joserfc" in found["found"]
    assert "[fastapi]" in found["remedy"]


def test_a_framework_that_has_no_guard_here_is_not_called_supported(
    tappass: Command, installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed({"crewai": "1.15.30"})
    monkeypatch.setattr(package, "__all__", ["tool"])
    found = doctor(tappass)["framework crewai"]
    assert (found["state"], found["found"]) == ("note", "1.15.30; this tappass has no guard for it")


def test_two_that_cannot_go_together_are_a_problem(tappass: Command, installed: Any) -> None:
    installed({"crewai": "1.15.30", "google-adk": "2.13.0"})
    done = tappass("doctor")
    assert done.code == 1
    assert "crewai with google-adk" in done.out
    assert "an environment of its own" in done.out


@pytest.mark.parametrize(
    ("line", "other", "fits"),
    [
        ("openai<3,>=2.30.0", "2.54.0", True),
        ("openai<3,>=2.30.0", "3.57.0", False),
        ("openai<3,>=2.30.0", "2.29", False),
        ("openai<3.0.0,>=2.30.0", "3.0", False),
        ("OpenAI>=2.30", "2.30.0", True),
        ("openai[realtime]<3 ; python_version < '3.9'", "3.57.0", True),
        ("openai<3; extra == 'all'", "3.57.0", True),
        ("openai", "3.57.0", True),
        ("openai-agents<1", "3.57.0", True),
    ],
)
def test_one_that_forbids_the_other_is_a_problem(
    tappass: Command, installed: Any, line: str, other: str, fits: bool
) -> None:
    installed({"crewai": "1.15.30", "openai": other}, crewai=[line])
    done = tappass("doctor")
    assert done.code == (0 if fits else 1)
    assert ("crewai with openai" in done.out) is not fits


def test_the_newest_tested_versions_are_those_of_the_locks() -> None:
    for row in FRAMEWORKS:
        (env,) = (env for env in ENVIRONMENTS.values() if row.extra in env.extras and not env.oldest)
        (locked,) = re.findall(rf"^{row.package}==([\w.]+)", env.lock.read_text(), re.M)
        assert row.newest == locked, f"{row.package}: the newest tested is what {env.lock.name} holds"
        assert Version(row.newest) >= Version(requirements(row.extra)[row.package])


def test_every_extra_for_a_framework_has_its_row() -> None:
    assert {row.extra for row in FRAMEWORKS} == EXTRAS


def test_what_a_version_is_compared_by() -> None:
    versions = ["0.9", "1", "1.0.1", "1.9.post1", "1.10rc1", "2.0.0"]
    assert sorted(versions, key=frameworks._release) == versions
    assert frameworks._release("2") == frameworks._release("2.0.0")
    assert frameworks._release("no version") == ()
