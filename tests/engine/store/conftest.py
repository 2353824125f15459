from __future__ import annotations

import pytest

from tappass.engine.store.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tappass.db"


@pytest.fixture
def store(path):
    with SqliteStore(path) as opened:
        yield opened
