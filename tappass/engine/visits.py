"""People at the pages: who has logged in with which key, by a random id whose digest the database holds.

A visit is no credential of its own: each request looks at the key again, so what ends the key ends the visit.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

from tappass.engine.store.port import Store, Tx
from tappass.wire.ids import SYSTEM_CLOCK, Clock, rfc3339

IDLE, LONGEST = timedelta(minutes=30), timedelta(hours=12)
# A visit is written to at most this often, not at every page.
_NOTED = timedelta(minutes=1)

_NEW = "INSERT INTO visit (digest, org_id, key_digest, started_at, seen_at) VALUES (?, ?, ?, ?, ?)"
_FIND = "SELECT key_digest, seen_at FROM visit WHERE digest = ? AND org_id = ? AND seen_at > ? AND started_at > ?"
_SEEN = "UPDATE visit SET seen_at = ? WHERE digest = ?"
_END = "DELETE FROM visit WHERE digest = ? AND org_id = ?"
_OVER = "DELETE FROM visit WHERE org_id = ? AND (seen_at <= ? OR started_at <= ?)"


class Visits:
    """The visits of one organisation.

    Args:
        store: the database, as that organisation sees it.
        org_id: which.
        clock: what time it is.
    """

    def __init__(self, store: Store, org_id: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._org_id, self._clock = store, org_id, clock

    def begin(self, key_digest: bytes) -> str:
        """Begin a visit under a key that is good; return its id, which is kept nowhere."""
        visit, now = secrets.token_urlsafe(32), self._ago()

        def write(tx: Tx) -> None:
            tx.execute(_OVER, (self._org_id, self._ago(IDLE), self._ago(LONGEST)))
            tx.execute(_NEW, (_digest(visit), self._org_id, key_digest, now, now))

        self._store.run(write)
        return visit

    def find(self, visit: str) -> bytes | None:
        """Return the digest of the key that a visit was begun with; None if there is none, or it is over."""
        asked = (_digest(visit), self._org_id, self._ago(IDLE), self._ago(LONGEST))
        row = self._store.read.row(_FIND, asked)
        if row is None:
            return None
        if row[1] <= self._ago(_NOTED):
            self._store.run(lambda tx: tx.execute(_SEEN, (self._ago(), _digest(visit))))
        return bytes(row[0])

    def end(self, visit: str) -> None:
        """End a visit: whoever else has its id has nothing."""
        self._store.run(lambda tx: tx.execute(_END, (_digest(visit), self._org_id)))

    def _ago(self, span: timedelta = timedelta(0)) -> str:
        return rfc3339(self._clock.time_ns() - int(span.total_seconds()) * 1_000_000_000)


def _digest(visit: str) -> bytes:
    return hashlib.sha256(visit.encode("utf-8", "surrogatepass")).digest()
