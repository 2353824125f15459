"""What to say when an extra is not installed: which one, and a command that installs it here.

Never a plain `pip install tappass[...]`: on the package index that name belongs to another publisher. The command
comes from where this copy was installed, as its `direct_url.json` tells (PEP 610).
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tappass.errors import TapPassConfigError

# Extras that no supported versions let into one environment, by the names of their packages, which are the same;
# `[tool.uv]` in pyproject.toml says it to uv.
APART = {"crewai": ("google-adk",)}


def missing(extra: str, why: str) -> TapPassConfigError:
    """Make the error for an extra that is not installed; raise it from the ImportError.

    Args:
        extra: the extra's name, as in `tappass[embedded]`.
        why: what needs it, as the sentence's subject: "the embedded control plane".
    """
    if other := next(filter(_is_installed, _apart_from(extra)), ""):
        return TapPassConfigError(
            f"{why} needs tappass's extra `{extra}`, which cannot be installed beside `{other}`: no supported versions "
            f"of the two agree on what they need; give `{extra}` an environment of its own"
        )
    return TapPassConfigError(f"{why} needs tappass's extra `{extra}`, which is not installed; {_remedy(extra)}")


def _apart_from(extra: str) -> Iterator[str]:
    yield from APART.get(extra, ())
    yield from (first for first, others in APART.items() if extra in others)


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def _remedy(extra: str) -> str:
    requirement = _requirement(extra, _direct_url())
    if requirement is None:
        return f"install that extra from the wheel or checkout that tappass was installed from: PATH[{extra}]"
    return f"install it with: {shlex.join([*_installer(), *requirement])}"


def _installer() -> list[str]:
    # By this interpreter, so that it works whatever environment is active.
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install"]
    return ["uv", "pip", "install", "--python", sys.executable]


def _direct_url() -> dict[str, Any]:
    try:
        text = distribution("tappass").read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def _requirement(extra: str, origin: dict[str, Any]) -> list[str] | None:
    """Return the installer's arguments for `extra` from `origin`, or None if that is no longer there."""
    url = str(origin.get("url", ""))
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return [f"tappass[{extra}] @ {vcs['vcs']}+{url}@{vcs['commit_id']}"]
    if not url.startswith("file:"):
        return None
    path = Path(unquote(urlsplit(url).path))
    if not path.exists():
        return None
    if origin.get("dir_info", {}).get("editable"):
        return ["--editable", f"{path}[{extra}]"]
    return [f"tappass[{extra}] @ {url}"]
