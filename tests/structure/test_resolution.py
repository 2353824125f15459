"""What an installer makes of our extras today: each framework at its current version, or a plain refusal.

The current version is what the index gives to somebody who asks for that framework alone, not a number kept here.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

from scripts.bootstrap import ENV
from scripts.environments import EXTRAS, ROOT, requirements
from tappass.extras import APART

BESIDE_CREWAI = sorted(EXTRAS - {"crewai"} - set(APART["crewai"]))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# One worker builds the wheel once.
pytestmark = pytest.mark.xdist_group("wheel")


def uv(*words: str | Path, cwd: Path = ROOT, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uv", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=ENV, input=given, capture_output=True, text=True, check=False)


def resolve(*asked: str) -> subprocess.CompletedProcess[str]:
    """Resolve as for a fresh environment, by no project's settings."""
    words = ("--no-config", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "-")
    return uv(*words, given="\n".join(asked))


def resolved(*asked: str) -> dict[str, str]:
    done = resolve(*asked)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", done.stdout, re.M))


@functools.cache
def current(extra: str) -> dict[str, str]:
    """What this extra's frameworks are at, asked for together but without us."""
    names = requirements(extra)
    found = resolved(*names)
    return {name: found[name] for name in names}


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_brings_its_framework_at_the_current_version(wheel: Path, extra: str) -> None:
    found = resolved(f"tappass[{extra}] @ {wheel.as_uri()}")
    assert {name: found[name] for name in current(extra)} == current(extra)


def test_a_server_beside_a_framework_changes_nothing(wheel: Path) -> None:
    for extra in sorted(EXTRAS):
        found = resolved(f"tappass[{extra},server] @ {wheel.as_uri()}")
        assert {name: found[name] for name in current(extra)} == current(extra)


@pytest.mark.parametrize("extra", BESIDE_CREWAI)
def test_what_goes_with_crewai_leaves_it_current_and_is_not_below_its_floor(wheel: Path, extra: str) -> None:
    found = resolved(f"tappass[crewai,{extra}] @ {wheel.as_uri()}")
    assert found["crewai"] == current("crewai")["crewai"]
    for name, floor in requirements(extra).items():
        assert Version(found[name]) >= Version(floor)


@pytest.mark.parametrize(("first", "second"), [(first, second) for first in APART for second in APART[first]])
def test_two_extras_that_cannot_go_together_are_refused_by_name(wheel: Path, first: str, second: str) -> None:
    done = resolve(f"tappass[{first},{second}] @ {wheel.as_uri()}")
    assert done.returncode != 0
    assert f"tappass[{first}]" in done.stderr
    assert f"tappass[{second}]" in done.stderr


@pytest.mark.parametrize("asked", ["openai>=3", "mcp>=2", "fastmcp>=4"])
def test_a_version_that_crewai_forbids_is_refused_and_not_met_by_an_ancient_crewai(wheel: Path, asked: str) -> None:
    assert resolve(f"tappass[crewai] @ {wheel.as_uri()}", asked).returncode != 0


def test_in_this_checkout_uv_refuses_the_same_pairs(tmp_path: Path) -> None:
    declared = {frozenset(side["extra"] for side in pair) for pair in PROJECT["tool"]["uv"]["conflicts"]}
    assert declared == {frozenset({first, second}) for first in APART for second in APART[first]}
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    locked = uv("lock", "--quiet", cwd=tmp_path)
    assert locked.returncode == 0, locked.stderr
    for first, others in APART.items():
        for second in others:
            done = uv("export", "--frozen", "--extra", first, "--extra", second, cwd=tmp_path)
            assert done.returncode != 0
            assert f"Extras `{first}` and `{second}` are incompatible" in done.stderr
