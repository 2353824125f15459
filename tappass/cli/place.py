"""Where a command works: the database here, the directory of its policy, its log key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tappass.errors import TapPassConfigError
from tappass.extras import missing

if TYPE_CHECKING:
    from tappass.engine.audit.keys import LogKey, PublicKey
    from tappass.engine.pipelines import Pipelines
    from tappass.engine.policy.files import PolicySources
    from tappass.engine.store.sqlite import SqliteStore


class Place:
    """One embedded database and what lies around it."""

    def __init__(self, database: Path) -> None:
        from tappass.plane.connect import home_of

        self.database = database
        self.home = home_of(database)
        self._store: SqliteStore | None = None

    @property
    def store(self) -> SqliteStore:
        """The database, opened at its first use.

        Raises:
            TapPassConfigError: there is none.
            TapPassConnectionError: it cannot be opened.
        """
        if self._store is None:
            if not self.database.exists():
                raise TapPassConfigError(f"there is no database at {self.database}; `tappass init` makes one")
            try:
                from tappass.engine.store.sqlite import SqliteStore
            except ImportError as error:
                raise missing("embedded", "this command") from error
            self._store = SqliteStore(self.database)
        return self._store

    @property
    def log_key(self) -> LogKey:
        """The key that signs the log here."""
        from tappass.engine.audit.keys import log_key

        return log_key(self.database.parent)

    def public_key(self) -> PublicKey:
        """Return the key that verifies the log here.

        Raises:
            TapPassConfigError: nothing was written to the log yet.
        """
        from tappass.engine.audit.checkpoint import public_key
        from tappass.engine.store.reading import DEFAULT_ORG

        key = public_key(self.store, self.log_key, DEFAULT_ORG)
        if key is None:
            raise TapPassConfigError(f"the log in {self.database} is empty, so nothing is signed yet")
        return key

    def pipelines(self, fixed: PolicySources | None = None) -> Pipelines:
        """Return the accepted versions; `fixed` stands for what lies on disk, so that it cannot change meanwhile."""
        from tappass.engine.leaves import Leaves
        from tappass.engine.pipelines import Pipelines
        from tappass.wire.ids import SYSTEM_CLOCK

        return Pipelines(self.store, self.home, Leaves(SYSTEM_CLOCK), SYSTEM_CLOCK, fixed)

    def close(self) -> None:
        """Let go of the database."""
        if self._store is not None:
            self._store.close()


@contextmanager
def here(*, accepting: bool = False) -> Iterator[Place]:
    """Yield the place that calls from this directory are recorded at.

    Args:
        accepting: rather the one that must accept what the settings here say of another.
    """
    from tappass.plane.connect import database_of, url_here
    from tappass.plane.followed import url_waits

    url = "embedded:" if accepting and "TAPPASS_URL" not in os.environ and url_waits() else url_here()
    place = Place(database_of(url))
    try:
        yield place
    finally:
        place.close()
