"""Run every check of the project, one after the other, and sum up; `scripts/test` calls this inside `.venv`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [sys.executable, "-m"]
# How the caller's Python is set up must not decide what passes here.
DROPPED = ("PYTHONPATH", "PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS")
NO_TESTS_COLLECTED = 5

STATIC = {
    "lint": [*PYTHON, "ruff", "check", "--quiet", "."],
    "format": [*PYTHON, "ruff", "format", "--quiet", "--check", "."],
    "types (mypy)": [*PYTHON, "mypy", "--no-error-summary"],
    "types (pyright)": [*PYTHON, "pyright", "--warnings"],
    "layers": [str(Path(sys.executable).with_name("lint-imports")), "--no-logo"],
    "changelog": [*PYTHON, "towncrier", "build", "--draft", "--version", "next"],
}


def environment() -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in DROPPED}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"
    return env


def pytest_runs(arguments: list[str]) -> dict[str, list[str]]:
    """The pytest commands: as the caller asks, or all of it, with what needs the machine to itself at first."""
    if arguments:
        return {"tests": [*PYTHON, "pytest", *arguments]}
    spread = ["-n", "2", "--dist", "loadgroup"]
    return {
        "tests alone": [*PYTHON, "pytest", "-n", "0", "-m", "alone"],
        # Last, so that a run's closing line counts the many.
        "tests": [*PYTHON, "pytest", *spread, "-m", "not alone"],
    }


def run_quietly(command: list[str]) -> bool:
    """Run a check that has nothing to say when it passes; whether it did."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        print(done.stdout + done.stderr, flush=True)
    return done.returncode == 0


def run_pytest(name: str, command: list[str]) -> bool:
    done = subprocess.run(command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL)
    return done.returncode == 0 or (name == "tests alone" and done.returncode == NO_TESTS_COLLECTED)


def main() -> int:
    verdicts: dict[str, tuple[bool, float]] = {}
    tests = pytest_runs(sys.argv[1:])
    for name, command in (STATIC | tests).items():
        print(f"── {name}", flush=True)
        started = time.monotonic()
        passed = run_pytest(name, command) if name in tests else run_quietly(command)
        verdicts[name] = passed, time.monotonic() - started
    print("\n── summary")
    for name, (passed, seconds) in verdicts.items():
        print(f"   {'ok    ' if passed else 'FAILED'} {name:<16} {seconds:6.1f} s")
    return 0 if all(passed for passed, _ in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
