"""Which environment runs which module of tests/adapters: the module's name tells, and nothing is left out unseen.

A file or folder named for an extra (`test_mcp.py`, `test_mcp_servers.py`, `mcp/test_streams.py`) runs where that extra
is promised, see `[tool.tappass.environments]` in pyproject.toml; any other runs in every environment.
"""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "adapters"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A virtual environment beside `.venv`, with the frameworks whose tests it is there to run."""

    name: str
    extras: frozenset[str]
    oldest: bool

    @property
    def python(self) -> Path:
        return ROOT / f".venv-{self.name}" / "bin" / "python"

    @property
    def lock(self) -> Path:
        return ROOT / f"requirements-{self.name}.lock"

    def modules(self) -> list[Path]:
        """The test modules that run here."""
        return [module for module in all_modules() if needs(module) <= self.extras]


def _all_environments() -> dict[str, Environment]:
    found: dict[str, Environment] = {}
    for name, table in PROJECT["tool"]["tappass"]["environments"].items():
        for kind in ("", "-oldest"):
            extras = frozenset(table["extras"])
            found[name + kind] = Environment(name=name + kind, extras=extras, oldest=bool(kind))
    return found


ENVIRONMENTS = _all_environments()
# A folder that is named for what it shows, with what it takes.
SEVERAL = {"five-processes": frozenset({"a2a", "fastapi", "fastmcp", "langchain", "mcp", "temporal"})}
EXTRAS = frozenset[str]().union(*(environment.extras for environment in ENVIRONMENTS.values()))


def all_modules() -> list[Path]:
    return sorted(TESTS.rglob("test_*.py"))


def needs(module: Path) -> frozenset[str]:
    """The extras that a test module's own name and its folders' names ask for."""
    parts = module.relative_to(TESTS).with_suffix("").parts
    found: set[str] = set()
    for part in parts:
        word = part.removeprefix("test_").replace("_", "-")
        named = [extra for extra in EXTRAS if word == extra or word.startswith(f"{extra}-")]
        # `openai-agents` is not `openai`.
        found.update(sorted(named, key=len)[-1:])
        found.update(SEVERAL.get(word, ()))
    return frozenset(found)


def requirements(extra: str) -> dict[str, str]:
    """The packages that an extra names, each with the oldest version it allows."""
    lines = PROJECT["project"]["optional-dependencies"][extra]
    found = (re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def here() -> Environment | None:
    """The environment that this Python is of; None for `.venv` and those that somebody made by hand."""
    prefix = Path(sys.prefix)
    if prefix.parent != ROOT:
        return None
    return ENVIRONMENTS.get(prefix.name.removeprefix(".venv-"))


def promised() -> frozenset[str]:
    """The extras whose tests run in this Python: as promised, or, where nothing is, those that are installed."""
    if (environment := here()) is not None:
        return environment.extras
    return frozenset(extra for extra in EXTRAS if all(_is_installed(name) for name in requirements(extra)))


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
