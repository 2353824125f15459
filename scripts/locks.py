"""Write the lock files anew from pyproject.toml; `scripts/lock` runs this in `.venv`.

Each `oldest` lock takes the floor of all that `[project]` asks for by name, and the newest tools to test it with.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAIN = ("embedded", "local-llm", "postgres", "server", "speed", "verify")
# What a framework is tested against: both planes, on both databases.
PLANES = ("embedded", "postgres", "server", "verify")
# The locks quote this name: no path of the machine's.
TOOLS = ".venv/tools.txt"


def lock(name: str, extras: Iterable[str], group: str, *more: str) -> None:
    print(f"lock: {name}", file=sys.stderr, flush=True)
    chosen = [word for extra in extras for word in ("--extra", extra)]
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", *chosen, "--group", group),
        *("--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url"),
        *("--no-emit-find-links", "--annotation-style", "line", "--no-header", "--quiet", "--output-file", name, *more),
    ]
    environment = os.environ | {"UV_CUSTOM_COMPILE_COMMAND": "scripts/lock"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def floors(extras: Iterable[str]) -> list[str]:
    """Options to keep no earlier version where the floor counts: uv would keep one that a lowered floor left behind."""
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    names = sorted({re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines} - {"tappass"})
    return ["--resolution", "lowest-direct", *(word for name in names for word in ("--upgrade-package", name))]


def pins() -> str:
    """The tools of the group `adapters` as the main lock has them: it is not their floor that is tested."""
    group = PROJECT["dependency-groups"]["adapters"]
    tools = {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in group}
    locked = re.findall(r"^([a-z][\w.-]*)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
    return "".join(f"{package}=={version}\n" for package, version in locked if package in tools)


def main(arguments: list[str]) -> None:
    lock("requirements.lock", MAIN, "dev", *arguments)
    for name, environment in PROJECT["tool"]["tappass"]["environments"].items():
        chosen = [*PLANES, *environment["extras"], *environment["beside"]]
        lock(f"requirements-{name}.lock", chosen, "adapters", *arguments)
        oldest = f"requirements-{name}-oldest.lock"
        (ROOT / TOOLS).write_text(pins())
        lock(oldest, chosen, "adapters", *floors(chosen), "--constraint", TOOLS, *arguments)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
