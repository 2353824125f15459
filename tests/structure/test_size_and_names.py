"""How long a module and a function may be, and what they may be called: the walls."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE_WALL, FUNCTION_WALL = 400, 40
# Words that name no responsibility.
EMPTY_WORDS = {"manager", "helper", "helpers", "util", "utils", "handler", "handlers", "process", "data"}
SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in ("tappass", "adapters", "cookbook", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)

pytestmark = pytest.mark.parametrize("source", SOURCES, ids=str)


def test_no_module_is_longer_than_the_wall(source: Path) -> None:
    assert len((ROOT / source).read_text().splitlines()) <= MODULE_WALL


def test_no_function_is_longer_than_the_wall(source: Path) -> None:
    tree = ast.parse((ROOT / source).read_text())
    too_long = {name: length for name, length in function_lengths(tree) if length > FUNCTION_WALL}
    assert not too_long


def test_no_name_holds_a_word_that_says_nothing(source: Path) -> None:
    tree = ast.parse((ROOT / source).read_text())
    names = [*source.with_suffix("").parts, *(node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    assert not {name for name in names if words(name) & EMPTY_WORDS}


def test_dunder_all_is_sorted_and_without_doubles(source: Path) -> None:
    for names in public_names(ast.parse((ROOT / source).read_text())):
        assert names == sorted(set(names))


def function_lengths(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Lines of each function without its docstring, which is there to be long where it must."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            yield node.name, length


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def public_names(tree: ast.Module) -> Iterator[list[str]]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            yield ast.literal_eval(node.value)  # type: ignore[attr-defined]
