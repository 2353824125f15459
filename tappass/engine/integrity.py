"""Tool integrity: a tool runs as the tool it was, its whole definition pinned by digest.

A gate on the deciding transaction. A definition that is approved costs one look-up in a dict; anything new is looked
into once, and people decide what comes of it (`tappass.engine.pins`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from tappass.engine.gate import Gate
from tappass.engine.judgement import Judgement
from tappass.engine.leaves import Leaves
from tappass.engine.policy.facts import TOOL
from tappass.engine.settings import FIRST_USE, RECORD
from tappass.engine.store.ahead import Ask
from tappass.engine.store.port import Tx
from tappass.wire.codec import canonical
from tappass.wire.decisions import DecisionRequest, ToolDefinition
from tappass.wire.ids import Clock, rfc3339
from tappass.wire.refusals import IntegrityViolation, PolicyBlock

PENDING, APPROVED, REVOKED = "pending", "approved", "revoked"
NOT_APPROVED, MISMATCH = "not_approved", "hash_mismatch"
# The server that tools have which are offered to a model, by which they are told from those that are called.
CHAT = "chat"
BLOCKED_BY = "tool-integrity"

_PIN = (
    "INSERT INTO pin (org_id, project_id, server, name, digest, state, decided_by, decided_at, changed_seq)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SEEN = (
    "SELECT digest FROM tool_definition WHERE org_id = ? AND project_id = ? AND server = ? AND name = ?"
    " ORDER BY first_seen_seq DESC"
)
_DEFINE = (
    "INSERT INTO tool_definition (org_id, project_id, digest, server, name, definition, first_seen_at, first_seen_seq)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_OF_SERVER = "SELECT name, digest, definition FROM tool_definition WHERE org_id = ? AND project_id = ? AND server = ?"
_SAID = {
    NOT_APPROVED: "is a tool that nobody has approved; `tappass tools` lists what waits for that",
    MISMATCH: "is not the tool that was approved: its definition has changed; see `tappass tools diff`",
    REVOKED: "has a definition that was revoked; see `tappass tools`",
    "renamed": "was renamed, or took another tool's place, and nobody has approved it; see `tappass tools`",
    "text": "has a description that hides something or instructs the model, and nobody has approved it; "
    "see `tappass tools diff`",
    "unlisted": "is on no list of tools of its server",
    "shadowed": "has a name that another tool here goes by too, so nobody can tell which of them is meant",
}
# What a person may look at and approve; any other doubt is final.
_SOFT = ("renamed", "text")


Key: TypeAlias = tuple[str, str, str]
"""Server, name, digest."""
Pins: TypeAlias = dict[Key, str]


class Integrity(Gate):
    """Lets a tool run, or be offered to a model, as what it was approved, or seen, as."""

    def __init__(self, leaves: Leaves, clock: Clock) -> None:
        self._leaves = leaves
        self._clock = clock
        self._seen: set[Key] = set()

    def check(self, tx: Tx, judged: Judgement) -> None:
        """Refuse a tool whose definition is not to run; record one that is new."""
        action, pins = judged.request.action, judged.controls.pins
        if action.kind == TOOL:
            key = (action.server, action.name, action.definition_digest)
            if judged.request.doubt and judged.request.doubt not in _SOFT:
                _refuse(judged, NOT_APPROVED, key[1], judged.request.doubt)
            elif not self._passes(judged, pins, key):
                self._look(tx, judged, pins, key, None)
            return
        for tool in action.arguments.get("tools") or ():
            key, definition = offered(tool)
            if not self._passes(judged, pins, key):
                pins = pins | self._look(tx, judged, pins, key, definition)

    def asks(self, judged: Judgement) -> Sequence[Ask]:
        """Return what `check` asks about a tool that is not known to be what it was."""
        action = judged.request.action
        key = (action.server, action.name, action.definition_digest)
        if action.kind != TOOL or self._passes(judged, judged.controls.pins, key) or not _records(judged):
            return ()
        return (self._known(key),)

    def _known(self, key: Key) -> Ask:
        return _SEEN, (self._leaves.org_id, self._leaves.project_id, key[0], key[1])

    def _passes(self, judged: Judgement, pins: Pins, key: Key) -> bool:
        state = pins.get(key)
        return state == APPROVED or (state is None and key in self._seen and _records(judged))

    def _look(self, tx: Tx, judged: Judgement, pins: Pins, key: Key, definition: ToolDefinition | None) -> Pins:
        """Look into a definition that is not approved; return the pin that came of it, if one did."""
        state, made = pins.get(key), {}
        if state == REVOKED:
            _refuse(judged, REVOKED, key[1])
        elif definition is None and not _is_whole(judged.request):
            _refuse(judged, MISMATCH, key[1])
        elif _records(judged):
            self._record(tx, judged, key)
        elif not key[2]:
            _refuse(judged, NOT_APPROVED, key[1])
        else:
            made = self._pin(tx, judged, pins, key)
        if definition is not None and key not in self._seen:
            self._define(tx, key, definition)
        return made

    def _record(self, tx: Tx, judged: Judgement, key: Key) -> None:
        """Leave a leaf where a tool has changed; it runs all the same."""
        known = [row[0] for row in tx.execute(*self._known(key)).fetchall()]
        if key[2] in known:
            # On record by an earlier transaction: this one might be undone.
            self._seen.add(key)
        elif known:
            self._leaf(tx, judged, "pin.changed", key, actor="", old=known[0])

    def _pin(self, tx: Tx, judged: Judgement, pins: Pins, key: Key) -> Pins:
        siblings = {state for (server, name, _), state in pins.items() if (server, name) == key[:2]}
        first = key not in pins and mode_of(judged) == FIRST_USE and not siblings & {APPROVED, REVOKED}
        doubt = judged.request.doubt
        if first and not doubt and self._renamed(tx, judged, pins, key):
            doubt = "renamed"
        if first and not doubt:
            return self._insert(tx, judged, key, APPROVED, FIRST_USE)
        _refuse(judged, MISMATCH if APPROVED in siblings else NOT_APPROVED, key[1], doubt)
        return {} if key in pins else self._insert(tx, judged, key, PENDING, "")

    def _renamed(self, tx: Tx, judged: Judgement, pins: Pins, key: Key) -> bool:
        """Tell whether a server's tool is one of its others under a new name; words tell, an empty description not."""
        new = judged.request.definition
        if new is None or new.listed is msgspec.UNSET or not new.description:
            return False
        others = {digest for (server, name, digest) in pins if server == key[0] and name != key[1]}
        scope = (self._leaves.org_id, self._leaves.project_id, key[0])
        for name, digest, stored in tx.execute(_OF_SERVER, scope).fetchall():
            if digest in others and name != key[1]:
                old = msgspec.json.decode(stored, type=ToolDefinition)
                if _nameless(old) == _nameless(new):
                    return True
        return False

    def _insert(self, tx: Tx, judged: Judgement, key: Key, state: str, by: str) -> Pins:
        org, project = self._leaves.org_id, self._leaves.project_id
        at = rfc3339(self._clock.time_ns())
        seq = self._leaf(tx, judged, f"pin.{state}", key, actor=by)
        tx.execute(_PIN, (org, project, *key, state, by, at if by else "", seq))
        tx.controlled(org)
        return {key: state}

    def _define(self, tx: Tx, key: Key, definition: ToolDefinition) -> None:
        """Keep a definition that only a chat turn has shown; the engine keeps those of calls."""
        org = self._leaves.org_id
        seen = (rfc3339(self._clock.time_ns()), tx.next_seq(org))
        server, name, digest = key
        tx.execute(_DEFINE, (org, self._leaves.project_id, digest, server, name, canonical(definition), *seen))

    def _leaf(self, tx: Tx, judged: Judgement, type_: str, key: Key, *, actor: str, **details: str) -> int:
        server, name, digest = key
        fields = {"server": server, "name": name, "definition": digest, "actor": actor, "details": details}
        return tx.append(self._leaves.of(judged.opened.leaf, type_, task_id=judged.request.task_id, **fields)).seq


def offered(tool: Any) -> tuple[Key, ToolDefinition]:
    """Return what a tool that is offered to a model (in OpenAI's shape) is pinned by, and its definition."""
    function = tool.get("function") if isinstance(tool, dict) else None
    known = function if isinstance(function, dict) else {}
    name, parameters = str(known.get("name", "")), known.get("parameters")
    definition = ToolDefinition(
        name=name,
        description=str(known.get("description", "")),
        parameters=parameters if isinstance(parameters, dict) else {},
        server=CHAT,
    )
    return (CHAT, name, hashlib.sha256(canonical(tool)).hexdigest()), definition


def mode_of(judged: Judgement) -> str:
    """Return the mode that a call's tool is under: record, first-use or approve."""
    tools, definition = judged.opened.pipeline.settings.tools, judged.request.definition
    # A server that governs its own tools knows where their code is; whoever calls it does not.
    own = definition is not None and bool(definition.package)
    return tools.mcp_integrity if judged.request.action.server and not own else tools.integrity


def _records(judged: Judgement) -> bool:
    return mode_of(judged) == RECORD


def _is_whole(request: DecisionRequest) -> bool:
    """Tell whether the definition that came along, if one did, is the one that the action names."""
    action, definition = request.action, request.definition
    if definition is None:
        return True
    digest = hashlib.sha256(canonical(definition)).hexdigest()
    return (digest, definition.name, definition.server) == (action.definition_digest, action.name, action.server)


def _nameless(definition: ToolDefinition) -> ToolDefinition:
    """Return a definition without what the tool is called."""
    listed = {} if definition.listed is msgspec.UNSET else definition.listed
    rest = {key: value for key, value in listed.items() if key != "title"}
    return msgspec.structs.replace(definition, name="", listed=rest)


def _refuse(judged: Judgement, violation: str, name: str, doubt: str = "") -> None:
    """Refuse the call; a block by policy, which holds whatever the tool is, stays the answer."""
    if isinstance(judged.refusal, PolicyBlock | IntegrityViolation):
        return
    judged.held = False
    judged.blocked_by, judged.reason = BLOCKED_BY, _said(judged, violation, name, doubt)
    judged.refusal = IntegrityViolation(tool_name=name, violation=violation)


def _said(judged: Judgement, violation: str, name: str, doubt: str) -> str:
    if judged.request.action.kind == TOOL:
        return _SAID.get(doubt, _SAID[violation])
    shown = name if name.isprintable() and len(name) <= 200 else ascii(name[:200])[1:-1]
    return f"offers the model `{shown}`, which {_SAID[violation]}"
