"""The same tests over SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tappass.engine.store.port import Store
from tappass.engine.store.postgres import PostgresStore
from tappass.engine.store.sqlite import SqliteStore
from tests.engine.shared.servers import Servers, database
from tests.postgres import fresh_database


@pytest.fixture(params=["sqlite", "postgresql"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    if request.param == "sqlite":
        yield lambda: SqliteStore(database(tmp_path))
        return
    with fresh_database() as url:
        yield lambda: PostgresStore(url)


@pytest.fixture
def servers(open_store: Callable[[], Store]) -> Iterator[Servers]:
    with ExitStack() as stack:
        made = Servers(open_store)
        stack.callback(made.close)
        yield made
