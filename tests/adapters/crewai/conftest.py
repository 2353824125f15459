"""A plane with rules, a model that is scripted, and CrewAI's files in the test's own directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

POLICY = """
    version: 1
    rules:
      - {id: inside, tool: send, when: '!args.to.endsWith("@acme.com")', effect: block, message: outside}
      - {id: ask, tool: pay, effect: require_approval}
      - {id: mask, tool: look, effect: redact, fields: [result, arguments], kinds: [EMAIL]}
      - {id: no-bad-models, llm: bad-*, effect: block}
"""


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path / "crewai"))


@pytest.fixture
def plane(tappass_plane):
    tappass_plane.policy(POLICY)
    return tappass_plane


@pytest.fixture
def script() -> Iterator[Any]:
    from tests.adapters.crewai.crews import scripted

    with scripted() as answering:
        yield answering


@pytest.fixture
def ran() -> Any:
    from tests.adapters.crewai.crews import Ran

    return Ran()
