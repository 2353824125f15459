"""The recipes keep what their first lines promise, here and run by hand in any directory."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

COOKBOOK = Path(__file__).resolve().parent.parent / "cookbook"
RECIPES = sorted(COOKBOOK.glob("[0-9]*.py"))


def run(recipe: Path, directory: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", recipe],
        cwd=directory,
        env=os.environ | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_there_are_recipes():
    assert len(RECIPES) >= 5


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_runs_anywhere_says_something_and_leaves_nothing_behind(recipe, tmp_path):
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    done = run(recipe, directory, PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert not done.stderr
    assert not list(directory.iterdir())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_says_what_you_get_and_fits_on_a_page(recipe):
    text = recipe.read_text()
    assert "You get" in (ast.get_docstring(ast.parse(text)) or "")
    assert len(text.splitlines()) <= 90
    asserts = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
    assert asserts, "a recipe asserts its own point"


def test_the_table_of_recipes_is_complete():
    table = (COOKBOOK / "README.md").read_text()
    missing = [recipe.name for recipe in RECIPES if f"]({recipe.name})" not in table]
    assert not missing
