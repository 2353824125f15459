"""Imports point down: the contracts under `[tool.importlinter]` in pyproject.toml hold, and can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    # Its own path first: the editable install would otherwise answer for a copy.
    code = (
        f"import sys; sys.path[:0] = [{str(root)!r}, {str(root / 'adapters')!r}];"
        "from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)


def test_every_import_points_down() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("tappass/wire/upwards.py", "import tappass.errors", "Imports point down"),
        ("tappass/enforcement/upwards.py", "import tappass.engine", "Imports point down"),
        ("tappass/engine/sideways.py", "import tappass.session", "Imports point down"),
        ("tappass/session/upwards.py", "import tappass.plane", "Imports point down"),
        ("tappass/unlisted.py", "", "Imports point down"),
        ("tappass/server/__init__.py", "import tappass.decorators", "Imports point down"),
        ("tappass/server/app.py", "import tappass.decorators", "Imports point down"),
        ("tappass/plane/frameworks.py", "import openai", "Nothing in tappass imports"),
        ("adapters/tappass_adapters/deep.py", "import tappass.engine", "Adapters import the public surface only"),
    ],
)
def test_an_import_that_points_up_is_named(tmp_path: Path, module: str, line: str, broken: str) -> None:
    copy = tmp_path / "copy"
    for folder in ("tappass", "adapters"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / module).parent.mkdir(exist_ok=True)
    (copy / module).with_name("__init__.py").touch()
    (copy / module).write_text(line + "\n")

    done = lint_imports(copy)

    assert done.returncode == 1
    report = done.stdout.split("Broken contracts")[1]
    assert broken in report
    assert module.removeprefix("adapters/").removesuffix(".py").removesuffix("/__init__").replace("/", ".") in report
