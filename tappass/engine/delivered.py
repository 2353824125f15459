"""Endings and closes as an outbox delivers them: late, in batches, some of them twice, each recorded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import msgspec

from tappass.enforcement.verdicts import printable
from tappass.engine.endings import Endings, inspected
from tappass.engine.leaves import Leaves
from tappass.engine.moments import told_at
from tappass.engine.recalled import Open
from tappass.engine.replaying import Replays
from tappass.engine.sessions import STATUSES, Sessions
from tappass.engine.store.port import Store, Tx
from tappass.wire.chat import Usage
from tappass.wire.endings import ABANDONED, CANCELLED, COMPLETED, FAILED, Ending
from tappass.wire.service import Closing, Ended, Entry, Receipt

REJECTED = "delivery.rejected"
_STATUSES = (COMPLETED, FAILED, CANCELLED, ABANDONED)
_MOST = 2**53 - 1
_LONGEST, _MOST_FINDINGS = 200, 1000

# Writes one entry; tells whether it was new.
Write = Callable[[Tx], bool]


class Deliveries:
    """Takes what other processes' calls and sessions left behind, in one transaction a batch.

    What cannot be recorded as what it claims to be (its session is unknown or another agent's, or it has not the shape
    of an ending) is put on record as `delivery.rejected` and counts as accepted: an outbox that was refused would send
    it for ever, and nothing behind it.
    """

    def __init__(self, store: Store, leaves: Leaves, sessions: Sessions, endings: Endings, replays: Replays) -> None:
        self._store, self._leaves = store, leaves
        self._sessions, self._endings, self._replays = sessions, endings, replays

    def take(self, entries: Sequence[Entry], agent_uuid: str) -> Receipt:
        """Record a batch in its order, durably; the answer says how many of it were on record before.

        Args:
            entries: what was delivered.
            agent_uuid: the agent whose key was shown; "" takes the entries of all.

        Raises:
            TapPassConnectionError: it cannot be recorded; none of it was.
        """
        writes = [self._write_of(entry, agent_uuid) for entry in entries]
        endings = [entry.ending for entry in entries if isinstance(entry, Ended)]
        ahead = [ask for ending in endings for ask in self._endings.asks(ending)]
        accepted = self._store.run(lambda tx: sum([write(tx) for write in writes]), ahead=ahead)
        self._sessions.put_away([entry.session_id for entry in entries if isinstance(entry, Closing)])
        return Receipt(accepted=accepted, duplicates=len(entries) - accepted)

    def _write_of(self, entry: Entry, agent_uuid: str) -> Write:
        """Return what writes an entry; detectors read its result here, before the transaction."""
        session_id = entry.session_id if isinstance(entry, Closing) else entry.ending.session_id
        opened = self._sessions.known(session_id)
        if opened is None or (agent_uuid and opened.record.agent_uuid != agent_uuid):
            return self._rejected(entry, agent_uuid, "session-unknown")
        if isinstance(entry, Closing):
            return self._closed(opened, entry, agent_uuid)
        return self._ended(opened, entry, agent_uuid)

    def _closed(self, opened: Open, entry: Closing, agent_uuid: str) -> Write:
        if entry.status not in STATUSES:
            return self._rejected(entry, agent_uuid, "status-unknown")
        return lambda tx: self._sessions.close_in(tx, opened, entry.status, entry.openings)

    def _ended(self, opened: Open, entry: Ended, agent_uuid: str) -> Write:
        ending = bounded(entry.ending)
        if ending is None:
            return self._rejected(entry, agent_uuid, "malformed")
        now = self._leaves.now()
        event, body = self._endings.leaf(opened, ending, inspected(opened, ending), told_at(entry.at, now) or now)
        return lambda tx: self._endings.write(tx, opened, ending, event, body)

    def _rejected(self, entry: Entry, agent_uuid: str, why: str) -> Write:
        details = {"why": why, "entry": "close" if isinstance(entry, Closing) else "ending"}
        told = {"session_id": entry.session_id} if isinstance(entry, Closing) else _ids(entry.ending)
        # Said under `details`, not as the leaf's own: nobody writes into a session that is not theirs.
        details |= {name: value for name, value in told.items() if is_name(value)}
        event = self._leaves.event(REJECTED, agent_uuid=agent_uuid, details=details)
        digest = hashlib.sha256("\0".join([agent_uuid, why, *told.values()]).encode()).hexdigest()

        def write(tx: Tx) -> bool:
            if not self._replays.first(tx, f"rejected:{digest}"):
                return False
            tx.append(event)
            return True

        return write


def _ids(ending: Ending) -> dict[str, str]:
    return {"session_id": ending.session_id, "task_id": ending.task_id}


def bounded(ending: Ending) -> Ending | None:
    """Return an ending as a leaf can hold it, its numbers within bounds; None if it is none."""
    if ending.status not in _STATUSES or not ending.task_id or not is_name(ending.task_id):
        return None
    if len(ending.findings) + len(ending.redacted) > _MOST_FINDINGS:
        return None
    return msgspec.structs.replace(
        ending,
        duration_us=_within(ending.duration_us),
        error_type=printable(ending.error_type),
        model=printable(ending.model),
        findings=tuple([msgspec.structs.replace(f, kind=printable(f.kind)) for f in ending.findings]),
        redacted=tuple([printable(kind) for kind in ending.redacted]),
        usage=ending.usage if _is_counted(ending.usage) else None,
    )


def is_name(text: str) -> bool:
    """Tell whether a text that others sent may stand in a leaf: printable, and short."""
    return len(text) <= _LONGEST and text.isprintable()


def _is_counted(usage: Usage | None) -> bool:
    counts = () if usage is None else (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    return all(0 <= count <= _MOST for count in counts)


def _within(number: int) -> int:
    return min(max(number, 0), _MOST)
