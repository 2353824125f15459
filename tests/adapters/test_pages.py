"""The pages about frameworks do what they say, where the framework is: against a scripted model on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.adapters.scripted_gemini
from scripts.environments import EXTRAS, ROOT, promised
from tests.adapters import scripted_responses  # noqa: F401  a protocol of the scripted model
from tests.adapters.scripted import ScriptedModel
from tests.serving import python_path
from tests.structure.pages import Reader, blocks

assert tests.adapters.scripted_gemini


def pages() -> Iterator[Path]:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        asked = {block.option("in") for block in blocks(page)} - {""}
        assert asked <= EXTRAS, f"{page.name} asks for {asked - EXTRAS}"
        if asked & promised():
            yield page


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_the_page_works_where_its_framework_is(page: Path, tmp_path: Path) -> None:
    with ScriptedModel() as model:
        environment = os.environ | {
            "OPENAI_API_KEY": "x",
            "OPENAI_BASE_URL": f"{model.url}/v1",
            "GOOGLE_API_KEY": "x",
            "GOOGLE_GEMINI_BASE_URL": model.url,
            "PYTHONPATH": python_path(),
        }
        reader = Reader(directory=tmp_path / "project", environment=environment, frameworks=promised())
        for block in blocks(page):
            reader.follow(block)
    assert not reader.trouble, "\n\n".join(["", *reader.trouble])
