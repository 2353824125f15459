"""What can be asked of a PostgreSQL store: on connections of its own, and of one organisation's rows alone."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from tappass.engine.store.dialect import POSTGRESQL, translated
from tappass.engine.store.postgres_link import Address, Pool, cannot_read, is_outage
from tappass.engine.store.reading import Reader, Rows

_SCOPE = "SELECT set_config('tappass.org_id', %s, false)"


class PostgresReader(Reader):
    """Questions to one store, as one organisation."""

    dialect = POSTGRESQL

    def __init__(self, address: Address, pool: Pool, org_id: str) -> None:
        self._address, self._pool, self._org_id = address, pool, org_id

    def query(self, sql: str, params: Sequence[object] = ()) -> Rows:
        """Return all rows of a SELECT (`?` parameters).

        Raises:
            TapPassConnectionError: the database cannot be read.
        """
        try:
            return self._ask(translated(sql), params)
        except psycopg.Error as error:
            if not is_outage(error):
                raise
            raise cannot_read(self._address.shown, error) from error

    def _ask(self, sql: str, params: Sequence[object]) -> Rows:
        while True:
            used = False
            try:
                with self._pool.borrowed() as (connection, used):
                    # With every question: who had this connection before was another organisation, perhaps.
                    with connection.pipeline():
                        connection.execute(_SCOPE, (self._org_id,))
                        found = connection.execute(sql, params or None)
                    return found.fetchall()
            except psycopg.Error as error:
                # The server was restarted since: what was kept open is no use, another may be.
                if not (used and is_outage(error)):
                    raise
                self._pool.drop()

    def close(self) -> None:
        """Let go of connections; the next question opens another."""
        self._pool.drop()
