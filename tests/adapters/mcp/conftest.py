"""What the tests of the MCP adapter share: a bank, and the planes that decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tappass.testing import memory_plane
from tests.adapters.mcp.bank import WAYS, Bank
from tests.living import remote_plane


class Subject:
    """A plane under test: its policy, its settings, its log."""

    def __init__(self, made: Any) -> None:
        self.policy, self.settings, self.events = made.policy, made.settings, made.events
        self.engine = made.engine if hasattr(made, "engine") else made.plane.engine
        self.plane = made.plane


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Any:
    return WAYS[request.param]


@pytest.fixture
def plane() -> Iterator[Subject]:
    with memory_plane() as made:
        yield Subject(made)


@pytest.fixture(params=["embedded", "remote"])
def any_plane(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Subject]:
    if request.param == "embedded":
        with memory_plane() as made:
            yield Subject(made)
        return
    (tmp_path / "server").mkdir()
    with remote_plane(tmp_path / "server") as remote:
        yield Subject(remote)
