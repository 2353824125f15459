"""Run every check of the project, one after the other, and sum up; `scripts/test` calls this inside `.venv`.

tests/adapters runs in the environments that have the frameworks (scripts/environments.py), all else in `.venv`.
Arguments go to pytest. Paths decide where it runs; `--in NAME`, or `--in all`, names the environments for those under
tests/adapters.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from environments import ENVIRONMENTS, TESTS, Environment, needs

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [sys.executable, "-m"]
# How the caller's Python is set up must not decide what passes here.
DROPPED = ("PYTHONPATH", "PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS")
NO_TESTS_COLLECTED = 5
# pytest's options whose value may look like a path.
WITH_A_VALUE = ("-W", "-c", "-k", "-m", "-n", "-o", "-p", "-r")

STATIC = {
    "lint": [*PYTHON, "ruff", "check", "--quiet", "."],
    "format": [*PYTHON, "ruff", "format", "--quiet", "--check", "."],
    "types (mypy)": [*PYTHON, "mypy", "--no-error-summary"],
    "types (pyright)": [*PYTHON, "pyright", "--warnings"],
    "layers": [str(Path(sys.executable).with_name("lint-imports")), "--no-logo"],
    "changelog": [*PYTHON, "towncrier", "build", "--draft", "--version", "next"],
}


def environment(python: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in DROPPED}
    env["PATH"] = f"{Path(python).parent}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"
    return env


def all_pytest_runs() -> dict[str, list[str]]:
    """All of it: first what needs the machine to itself, last the many, so that a run's closing line counts them."""
    spread = ["-n", "3", "--dist", "loadgroup"]
    main = [*PYTHON, "pytest", f"--ignore={TESTS}"]
    adapters: dict[str, list[str]] = {}
    for env in ENVIRONMENTS.values():
        # By name, not by folder: a module that was not collected after all is an error.
        modules = [str(module) for module in env.modules()]
        adapters[env.name] = [str(env.python), "-m", "pytest", *spread, "-m", "not alone", *modules]
        if lonely := [module for module in modules if "mark.alone" in Path(module).read_text()]:
            adapters[f"{env.name} alone"] = [str(env.python), "-m", "pytest", "-n", "0", "-m", "alone", *lonely]
    return {
        "tests alone": [*main, "-n", "0", "-m", "alone"],
        **adapters,
        "tests": [*main, *spread, "-m", "not alone"],
    }


def asked_pytest_runs(arguments: list[str]) -> dict[str, list[str]]:
    """As the caller asks: tests/adapters in the environments that have its frameworks, the rest in `.venv`."""
    chosen, arguments = names_after_in(arguments)
    paths = [word for word, before in zip(arguments, ["", *arguments], strict=False) if is_path(word, before)]
    adapters = [word for word in paths if path_of(word).is_relative_to(TESTS)]
    rest = [word for word in arguments if word not in adapters]
    runs: dict[str, list[str]] = {}
    for env in environments_for(adapters, chosen):
        own = [word for word in adapters if needs_of(word) <= env.extras]
        options = [word for word in rest if word not in paths]
        runs[env.name] = [str(env.python), "-m", "pytest", *options, *own]
    if not adapters or len(paths) > len(adapters):
        runs["tests"] = [*PYTHON, "pytest", f"--ignore={TESTS}", *rest]
    return runs


def names_after_in(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Part `--in NAME` from what is pytest's."""
    if "--in" not in arguments:
        return [], arguments
    at = arguments.index("--in")
    (name,) = arguments[at + 1 : at + 2] or [""]
    if name != "all" and name not in ENVIRONMENTS:
        sys.exit(f"test: --in takes all, {', '.join(ENVIRONMENTS)}; not {name!r}")
    return list(ENVIRONMENTS) if name == "all" else [name], arguments[:at] + arguments[at + 2 :]


def is_path(word: str, before: str) -> bool:
    return before not in WITH_A_VALUE and not word.startswith("-") and path_of(word).exists()


def path_of(word: str) -> Path:
    return (ROOT / word.partition("::")[0]).resolve()


def needs_of(word: str) -> frozenset[str]:
    return needs(path_of(word)) if path_of(word) != TESTS else frozenset()


def environments_for(paths: list[str], chosen: list[str]) -> Iterable[Environment]:
    """Those named, or the ones with the newest versions, as long as they run any of these paths."""
    if not paths:
        return []
    asked = [env for env in ENVIRONMENTS.values() if (env.name in chosen if chosen else not env.oldest)]
    found = [env for env in asked if any(needs_of(word) <= env.extras for word in paths)]
    lost = [word for word in paths if not any(needs_of(word) <= env.extras for env in asked)]
    if lost:
        sys.exit(f"test: none of {', '.join(env.name for env in asked)} runs {', '.join(lost)}")
    return found


def start_setup(names: Iterable[str]) -> subprocess.Popen[str]:
    """Make the environments while the checks run that need none of them."""
    command = [sys.executable, "-I", str(ROOT / "scripts" / "bootstrap.py"), *names]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, text=True)


def run_quietly(command: list[str]) -> bool:
    """Run a check that has nothing to say when it passes; whether it did."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment(command[0]), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        print(done.stdout + done.stderr, flush=True)
    return done.returncode == 0


def run_pytest(name: str, command: list[str]) -> bool:
    if not Path(command[0]).exists():
        print(f"   {command[0]} is not there: its environment could not be made", flush=True)
        return False
    done = subprocess.run(command, cwd=ROOT, env=environment(command[0]), stdin=subprocess.DEVNULL)
    return done.returncode == 0 or (name == "tests alone" and done.returncode == NO_TESTS_COLLECTED)


def main(arguments: list[str]) -> int:
    tests = asked_pytest_runs(arguments) if arguments else all_pytest_runs()
    used = [env.name for env in ENVIRONMENTS.values() if env.name in tests]
    setting_up = start_setup(used)
    verdicts: dict[str, tuple[bool, float]] = {}

    def check(name: str, passes: Callable[[], bool]) -> None:
        print(f"── {name}", flush=True)
        started = time.monotonic()
        verdicts[name] = passes(), time.monotonic() - started

    for name, command in STATIC.items():
        check(name, partial(run_quietly, command))
    check("environments", lambda: setting_up.wait() == 0)
    for name, command in tests.items():
        check(name, partial(run_pytest, name, command))
    print("\n── summary")
    for name, (passed, seconds) in verdicts.items():
        print(f"   {'ok    ' if passed else 'FAILED'} {name:<24} {seconds:6.1f} s")
    return 0 if all(passed for passed, _ in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
