"""The environment that runs these tests has what it promises: each framework, at the version it says, importable."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from importlib import metadata

import pytest
import tappass_adapters
from packaging.version import Version

import tappass
from scripts.environments import ROOT, here, promised, requirements
from tappass.cli.frameworks import FRAMEWORKS
from tappass.errors import TapPassConfigError

# One module of each package that its guard stands on.
MODULES = {
    "a2a-sdk": "a2a.client",
    "crewai": "crewai.hooks",
    "fastapi": "fastapi.applications",
    "fastmcp": "fastmcp.server.middleware",
    "google-adk": "google.adk.plugins.base_plugin",
    "langchain": "langchain.agents.middleware",
    "langchain-classic": "langchain_classic.agents",
    "langchain-core": "langchain_core.tracers.context",
    "langgraph": "langgraph.prebuilt",
    "mcp": "mcp.client.session",
    "openai": "openai.resources.responses",
    "openai-agents": "agents.run",
    "temporalio": "temporalio.worker",
}
PACKAGES = {name: floor for extra in sorted(promised()) for name, floor in requirements(extra).items()}


def locked(name: str) -> set[str]:
    environment = here()
    assert environment is not None
    return set(re.findall(rf"^{re.escape(name)}==([\w.]+)", environment.lock.read_text(), re.M))


@pytest.mark.parametrize("name", PACKAGES)
def test_a_promised_framework_can_be_imported(name: str) -> None:
    importlib.import_module(MODULES[name])


@pytest.mark.parametrize("name", PACKAGES)
def test_a_promised_framework_has_the_promised_version(name: str) -> None:
    installed, floor = Version(metadata.version(name)), Version(PACKAGES[name])
    environment = here()
    if environment is None:
        assert installed >= floor
    elif environment.oldest:
        assert installed == floor
    else:
        assert str(installed) in locked(name)
        assert installed >= floor


def test_this_checkout_is_what_is_tested() -> None:
    assert tappass.__file__ == str(ROOT / "tappass" / "__init__.py")
    assert tappass_adapters.__file__ == str(ROOT / "adapters" / "tappass_adapters" / "__init__.py")


def test_doctor_names_what_is_promised_and_finds_that_all_fits() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tappass", "doctor", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {check["what"]: check for check in json.loads(done.stdout)}
    for name in sorted(PACKAGES.keys() & {row.package for row in FRAMEWORKS}):
        assert found[f"framework {name}"]["found"].startswith(metadata.version(name))
        assert "not supported" not in found[f"framework {name}"]["found"]


def test_every_guard_of_a_promised_framework_is_there_and_described() -> None:
    absent = set()
    for name in (name for name, home in tappass._HOMES.items() if home.startswith("tappass_adapters")):
        try:
            assert getattr(tappass, name).__doc__, name
        except TapPassConfigError as error:
            absent |= set(re.findall(r"tappass's extra `([a-z0-9-]+)`", str(error)))
    assert not absent & promised()
