"""The demo's program comes along in the wheel, and is the very one of the cookbook."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tappass.cli import recipe
from tappass.errors import TapPassConfigError

ROOT = Path(__file__).resolve().parents[2]
COPY = """
import sys, tappass
from pathlib import Path
from tappass.cli.recipe import copy_main_job
assert Path(tappass.__file__).is_relative_to(sys.argv[1]), tappass.__file__
copy_main_job(Path(sys.argv[2]))
"""


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_wheel_holds_what_the_demo_runs(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "from wheel").mkdir()
    (tmp_path / "from checkout").mkdir()
    subprocess.run(
        [sys.executable, "-c", COPY, tmp_path / "installed", tmp_path / "from wheel"],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        check=True,
    )
    recipe.copy_main_job(tmp_path / "from checkout")
    copied = files(tmp_path / "from wheel")
    assert copied == files(tmp_path / "from checkout")
    assert copied["invoice_agent.py"] == (ROOT / "cookbook/invoice_agent.py").read_bytes()
    assert copied["payment_agent.py"] == (ROOT / "cookbook/payment_agent.py").read_bytes()
    assert len([name for name in copied if name.startswith("data/invoices/")]) == 5


def test_what_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(TapPassConfigError, match="cannot write the demo's project"):
        recipe.copy_main_job(tmp_path)
