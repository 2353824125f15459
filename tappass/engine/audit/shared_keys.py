"""Whether the servers of one database have the same key files; each would work alone, and not take the others' word."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from tappass.engine.audit.keys import EQUALITY_KEY_FILE, LOG_KEY_FILE, equality_key, log_key
from tappass.engine.leaves import ORG
from tappass.engine.store.port import Store, Tx
from tappass.errors import TapPassConfigError
from tappass.wire.ids import SYSTEM_CLOCK, Clock, rfc3339

_FIND = "SELECT value FROM setting WHERE org_id = ? AND key = ?"
_KEEP = (
    "INSERT INTO setting (org_id, key, value, updated_at) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (org_id, key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at"
)


def hold_to_shared_keys(store: Store, state: Path, *, rekey: bool = False, clock: Clock = SYSTEM_CLOCK) -> None:
    """See that a directory's key files are those of the database's other servers; the first one's count.

    Args:
        store: the database.
        state: the directory.
        rekey: let this directory's count from now on.
        clock: what time it is.

    Raises:
        TapPassConfigError: a file is another one.
        TapPassConnectionError: the database cannot be written.
    """
    marks = _marks(state)

    def write(tx: Tx) -> list[str]:
        other = []
        for name, mark in marks.items():
            row = tx.execute(_FIND, (ORG, name)).fetchone()
            if row is None or rekey:
                tx.execute(_KEEP, (ORG, name, mark, rfc3339(clock.time_ns())))
            elif not hmac.compare_digest(row[0], mark):
                other.append(name)
        return other

    if other := store.run(write):
        raise TapPassConfigError(
            f"{' and '.join(other)} in {state} {'is' if len(other) == 1 else 'are'} not what the other servers of this "
            "database have; copy the key files from the --state of one of them, or, if they are lost, stop all servers "
            "and start with --rekey"
        )


def _marks(state: Path) -> dict[str, str]:
    """Return what stands for each key, and tells nothing of it."""
    public = log_key(state).public("tappass").raw
    mark = hmac.digest(equality_key(state), b"tappass: which key this is", hashlib.sha256)
    return {LOG_KEY_FILE: hashlib.sha256(public).hexdigest(), EQUALITY_KEY_FILE: mark.hex()}
