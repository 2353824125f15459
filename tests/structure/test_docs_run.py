"""Every page and every recipe does what it says: its blocks run, its policies load, its commands work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.structure.pages import Reader, blocks

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "cookbook").rglob("*.md")])
RECIPES = sorted((ROOT / "cookbook").glob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_page_works_when_followed(page: Path, tmp_path: Path) -> None:
    reader = Reader(directory=tmp_path / "project", environment=dict(os.environ))
    for block in blocks(page):
        reader.follow(block)
    assert not reader.trouble, "\n\n".join(["", *reader.trouble])


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_the_recipe_runs(recipe: Path) -> None:
    done = subprocess.run(
        [sys.executable, recipe], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("fence", "text", "troubles"),
    [
        ("python", "assert True", 0),
        ("python", "assert False", 1),
        ("python raises=ValueError", "raise ValueError('x')", 0),
        ("python raises=ValueError", "raise KeyError('x')", 1),
        ("python raises=ValueError", "pass", 1),
        ('python title="app.py"', "from pathlib import Path; assert Path('app.py').exists()", 0),
        ("console", "$ python -c 'import sys; sys.exit(3)'", 1),
        ("console", "$ python -c 'import sys; sys.exit(3)'  # exits 3", 0),
        ("console not-run", "$ python -c 'import sys; sys.exit(3)'", 0),
        ("console", "$ rm -rf everything", 0),
        ("text", "anything", 0),
    ],
)
def test_the_runner_sees_what_does_not_work(tmp_path: Path, fence: str, text: str, troubles: int) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n```{fence}\n{text}\n```\n")
    reader = Reader(directory=tmp_path / "project", environment=dict(os.environ))
    for block in blocks(page):
        reader.follow(block)
    assert len(reader.trouble) == troubles


def test_a_block_sees_earlier_ones_only_if_it_says_so(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nname = 1\n```\n```python continues\nassert name == 1\n```\n```python\nname\n```\n")
    reader = Reader(directory=tmp_path / "project", environment=dict(os.environ))
    for block in blocks(page):
        reader.follow(block)
    (trouble,) = reader.trouble
    assert trouble.startswith("page.md:7: should run")
    assert "NameError" in trouble
