"""Agent with nothing configured: the real local model answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tappass import Agent
from tappass.engine import local_install, local_model
from tappass.testing import MemoryPlane, memory_plane


@pytest.fixture(scope="module", autouse=True)
def _local_model() -> Iterator[None]:
    local_install.install(progress=False)
    yield
    local_model.shared().close()


@pytest.fixture
def plane() -> Iterator[MemoryPlane]:
    with memory_plane() as made:
        yield made


def test_local_model_answers_and_is_named(plane: MemoryPlane, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tappass"):
        response = Agent().chat("Say hello.", max_tokens=8)
    assert response.content.strip()
    assert response.model == "smollm2-135m-instruct"
    (ended,) = plane.events(type="call.ended")
    assert ended.model == "smollm2-135m-instruct"
    assert ended.tokens[1] == 8


def test_local_model_streams(plane: MemoryPlane) -> None:
    with Agent().stream("Count to three.", max_tokens=8) as chunks:
        assert "".join(map(str, chunks)).strip()
    (ended,) = plane.events(type="call.ended")
    assert (ended.status, ended.tokens[1]) == ("completed", 8)
