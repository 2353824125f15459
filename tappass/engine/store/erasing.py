"""Content taken out of the database, for retention or on request; the log still verifies without."""

from __future__ import annotations

from collections.abc import Sequence

from tappass.engine.store.port import Tx

_CONTENT = "UPDATE leaf SET salt = NULL, body = NULL WHERE place = ? AND body IS NOT NULL"
# What a session was opened with stands beside its row as well, for decisions to read.
_METADATA = (
    "UPDATE session SET metadata = NULL WHERE metadata IS NOT NULL"
    " AND session_id = (SELECT session_id FROM leaf WHERE place = ? AND type = 'session.opened')"
)


def erase(tx: Tx, places: Sequence[int]) -> int:
    """Delete the contents of leaves, given by their keys; return how many had one."""
    erased = 0
    for place in places:
        erased += tx.execute(_CONTENT, (place,)).rowcount
        tx.execute(_METADATA, (place,))
    return erased
