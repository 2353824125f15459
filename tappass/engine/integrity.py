"""Tool integrity: a tool runs as the tool it was, its whole definition pinned by digest.

A gate on the deciding transaction. A definition that is approved costs one look-up in a dict; anything new is looked
into once, and people decide what comes of it (`tappass.engine.pins`).
"""

from __future__ import annotations

import hashlib

from tappass.engine.judgement import Judgement
from tappass.engine.leaves import Leaves
from tappass.engine.settings import APPROVE, RECORD
from tappass.engine.store.transaction import Tx
from tappass.wire.codec import canonical
from tappass.wire.decisions import DecisionRequest
from tappass.wire.ids import Clock, rfc3339
from tappass.wire.refusals import IntegrityViolation, PolicyBlock

PENDING, APPROVED, REVOKED = "pending", "approved", "revoked"
NOT_APPROVED, MISMATCH = "not_approved", "hash_mismatch"
FIRST_USE = "first-use"
BLOCKED_BY = "tool-integrity"

_PIN = (
    "INSERT INTO pin (org_id, project_id, server, name, digest, state, decided_by, decided_at, changed_seq)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SEEN = (
    "SELECT digest FROM tool_definition WHERE org_id = ? AND project_id = ? AND server = ? AND name = ?"
    " ORDER BY first_seen_seq DESC"
)
_SAID = {
    NOT_APPROVED: "is a tool that nobody has approved; `tappass tools` lists what waits for that",
    MISMATCH: "is not the tool that was approved: its definition has changed; see `tappass tools diff`",
    REVOKED: "has a definition that was revoked; see `tappass tools`",
}


class Integrity:
    """Lets a tool run as what it was approved, or seen, as."""

    def __init__(self, leaves: Leaves, clock: Clock) -> None:
        self._leaves = leaves
        self._clock = clock
        self._seen: set[tuple[str, str, str]] = set()

    def check(self, tx: Tx, judged: Judgement) -> None:
        """Refuse a tool whose definition is not to run; record one that is new."""
        action = judged.request.action
        key = (action.server, action.name, action.definition_digest)
        state = judged.controls.pins.get(key)
        if state == APPROVED or action.kind != "tool" or (state is None and key in self._seen and _records(judged)):
            return
        if state == REVOKED:
            _refuse(judged, REVOKED)
        elif not _is_whole(judged.request):
            _refuse(judged, MISMATCH)
        elif _records(judged):
            self._record(tx, judged, key)
        elif not action.definition_digest:
            _refuse(judged, NOT_APPROVED)
        else:
            self._pin(tx, judged, key, state)

    def _record(self, tx: Tx, judged: Judgement, key: tuple[str, str, str]) -> None:
        """Leave a leaf where a tool has changed; it runs all the same."""
        scope = (self._leaves.org_id, self._leaves.project_id)
        known = [row[0] for row in tx.execute(_SEEN, (*scope, key[0], key[1])).fetchall()]
        if key[2] in known:
            # On record by an earlier transaction: this one might be undone.
            self._seen.add(key)
        elif known:
            self._leaf(tx, judged, "pin.changed", key, actor="", old=known[0])

    def _pin(self, tx: Tx, judged: Judgement, key: tuple[str, str, str], state: str | None) -> None:
        siblings = {s for (server, name, _), s in judged.controls.pins.items() if (server, name) == key[:2]}
        first = mode_of(judged) != APPROVE and not siblings & {APPROVED, REVOKED}
        if first and state is None:
            self._insert(tx, judged, key, APPROVED, FIRST_USE)
            return
        if state is None:
            self._insert(tx, judged, key, PENDING, "")
        _refuse(judged, MISMATCH if APPROVED in siblings else NOT_APPROVED)

    def _insert(self, tx: Tx, judged: Judgement, key: tuple[str, str, str], state: str, by: str) -> None:
        org, project = self._leaves.org_id, self._leaves.project_id
        at = rfc3339(self._clock.time_ns())
        seq = self._leaf(tx, judged, f"pin.{state}", key, actor=by)
        tx.execute(_PIN, (org, project, *key, state, by, at if by else "", seq))
        tx.controlled(org)

    def _leaf(
        self, tx: Tx, judged: Judgement, type_: str, key: tuple[str, str, str], *, actor: str, **details: str
    ) -> int:
        server, name, digest = key
        fields = {"server": server, "name": name, "definition": digest, "actor": actor, "details": details}
        return tx.append(self._leaves.of(judged.opened.leaf, type_, task_id=judged.request.task_id, **fields)).seq


def mode_of(judged: Judgement) -> str:
    """Return the mode that a call's tool is under: record, first-use or approve."""
    tools = judged.opened.pipeline.settings.tools
    return tools.mcp_integrity if judged.request.action.server else tools.integrity


def _records(judged: Judgement) -> bool:
    return mode_of(judged) == RECORD


def _is_whole(request: DecisionRequest) -> bool:
    """Tell whether the definition that came along, if one did, is the one that the action names."""
    action, definition = request.action, request.definition
    if definition is None:
        return True
    digest = hashlib.sha256(canonical(definition)).hexdigest()
    return (digest, definition.name, definition.server) == (action.definition_digest, action.name, action.server)


def _refuse(judged: Judgement, violation: str) -> None:
    """Refuse the call; a block by policy, which holds whatever the tool is, stays the answer."""
    if isinstance(judged.refusal, PolicyBlock):
        return
    judged.held = False
    judged.blocked_by, judged.reason = BLOCKED_BY, _SAID[violation]
    judged.refusal = IntegrityViolation(tool_name=judged.request.action.name, violation=violation)
