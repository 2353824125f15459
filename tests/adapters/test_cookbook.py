"""The recipes for frameworks keep what their first lines promise, where the framework is: run as anybody would."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from scripts.environments import EXTRAS, ROOT, here, promised

RECIPES = sorted((ROOT / "cookbook" / "frameworks").glob("*.py"))


def extra_of(recipe: Path) -> str:
    """Return the extra that a recipe says it needs."""
    (found,) = re.findall(r"Needs `tappass\[([\w-]+)\]`", ast.get_docstring(ast.parse(recipe.read_text())) or "")
    assert found in EXTRAS
    return str(found)


def server_for(extra: str) -> Any:
    """Return the server that a recipe needs beside its framework, to be entered for its address."""
    if extra != "temporal":
        return nullcontext("")
    from tests.adapters.temporal.servers import development_server

    return development_server()


# Written for what a newcomer installs today; older versions have modules of other names.
RUN = [recipe for recipe in RECIPES if extra_of(recipe) in promised()] if not (here() and here().oldest) else []


@pytest.mark.parametrize("recipe", RUN, ids=lambda path: path.name)
def test_a_recipe_runs_anywhere_and_leaves_nothing_behind(recipe: Path, tmp_path: Path) -> None:
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    with server_for(extra_of(recipe)) as address:
        done = subprocess.run(
            [sys.executable, recipe],
            cwd=directory,
            env=os.environ | {"TEMPORAL_ADDRESS": address, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert not list(directory.iterdir())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_says_what_you_get_and_is_in_the_table(recipe: Path) -> None:
    tree = ast.parse(recipe.read_text())
    assert "You get" in (ast.get_docstring(tree) or "")
    assert len(recipe.read_text().splitlines()) <= 90
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree)), "a recipe asserts its own point"
    assert f"](frameworks/{recipe.name})" in (ROOT / "cookbook" / "README.md").read_text()
