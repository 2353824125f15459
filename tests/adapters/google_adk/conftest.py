"""What every test of the ADK guard gets: a plane, embedded and behind HTTP, and a scripted model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.adapters.conformance.conftest import _connections_to_the_model_end_with_their_test
from tests.adapters.google_adk.gemini import Gemini
from tests.contract.conftest import PLANES

__all__ = ["_connections_to_the_model_end_with_their_test"]

POLICY = """
    version: 1
    rules:
      - {id: inside, tool: send, when: '!args.to.endsWith("@acme.com")', effect: block}
      - {id: ask, tool: pay, effect: require_approval}
      - {id: mask, tool: look, effect: redact, fields: [result, arguments], kinds: [EMAIL]}
      - {id: no-secrets, llm: 'bad-*', effect: block}
      - {id: trusted, tool: wipe, effect: require_tier, tier: privileged}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """ADK warns of its own experimental and deprecated parts, which is none of our tests' concern."""
    for item in items:
        if "adapters/google_adk" in str(item.path):
            item.add_marker(pytest.mark.filterwarnings("ignore:.*:UserWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))


@pytest.fixture(params=["embedded-memory", "remote-sqlite"])
def plane(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Any]:
    with PLANES[request.param](tmp_path / "project") as subject:
        subject.policy(POLICY)
        yield subject


@pytest.fixture
def here(tmp_path: Any) -> Iterator[Any]:
    """A plane in memory, for what has nothing to do with where it lies."""
    with PLANES["embedded-memory"](tmp_path / "project") as subject:
        subject.policy(POLICY)
        yield subject


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gemini]:
    with Gemini() as scripted:
        monkeypatch.setenv("GOOGLE_API_KEY", "x")
        monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "0")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", scripted.url)
        yield scripted
