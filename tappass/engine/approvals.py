"""Approvals: a call that waits for people, bound to one action, redeemed at most once.

The row holds it, not the process: it survives restarts. States: pending, approved, denied, expired, cancelled (by who
asked), redeemed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import msgspec

from tappass import forking
from tappass.enforcement.action import action_bytes
from tappass.engine.gate import Gate
from tappass.engine.judgement import Judgement, kept
from tappass.engine.leaves import Leaves
from tappass.engine.policy.document import REQUIRE_APPROVAL
from tappass.engine.policy.facts import ApprovalTerms
from tappass.engine.store.port import Tx
from tappass.wire.codec import canonical
from tappass.wire.decisions import Action
from tappass.wire.ids import Clock, Ids, rfc3339
from tappass.wire.refusals import ApprovalNeeded

PENDING, APPROVED, DENIED, EXPIRED, REDEEMED = "pending", "approved", "denied", "expired", "redeemed"
CANCELLED = "cancelled"
EXPIRES_IN_S = 24 * 3600
TOKEN_PREFIX = "tp_resume_"  # noqa: S105 (a prefix, not a secret)

_FIELDS = (
    "approval_id, session_id, task_id, agent_uuid, state, action_hmac, definition_digest, rules, message, requested_by,"
    " approvers, requested_at, expires_at, decided_at, redeemed_at, redeemed_task_id"
)
_BY_ID = f"SELECT {_FIELDS} FROM approval WHERE org_id = ? AND (? = '' OR project_id = ?) AND approval_id = ?"  # noqa: S608
_SAME = (
    f"SELECT {_FIELDS} FROM approval WHERE session_id = ? AND org_id = ? AND action_hmac = ?"  # noqa: S608
    " AND definition_digest = ? AND state IN ('pending', 'approved', 'denied') ORDER BY requested_at DESC LIMIT 1"
)
_NEW = (
    "INSERT INTO approval (approval_id, org_id, project_id, session_id, task_id, agent_uuid, pipeline_uuid, state,"
    " action, action_hmac, definition_digest, token_digest, rules, message, requested_by, approvers, requested_at,"
    " expires_at, requested_seq) VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_REDEEM = (
    "UPDATE approval SET state = 'redeemed', redeemed_at = ?, redeemed_task_id = ?, redeemed_seq = ?"
    " WHERE approval_id = ? AND state = 'approved'"
)
_EXPIRE = (
    "UPDATE approval SET state = 'expired', action = NULL WHERE approval_id = ? AND state IN ('pending', 'approved')"
)
_REGISTERED_BY = "SELECT registered_by FROM agent WHERE org_id = ? AND agent_uuid = ?"
_SETTLED = "SELECT 1 FROM leaf WHERE session_id = ? AND task_id = ? AND type = 'call.ended'"


class ApprovalRow(msgspec.Struct, frozen=True, kw_only=True):
    """One approval as the database holds it; times are RFC 3339, UTC. `rules` is canonical JSON (`Asking`)."""

    approval_id: str
    session_id: str
    task_id: str
    agent_uuid: str
    state: str
    action_hmac: bytes
    definition_digest: str
    rules: str
    message: str
    requested_by: str
    approvers: int
    requested_at: str
    expires_at: str
    decided_at: str
    redeemed_at: str
    redeemed_task_id: str


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """Which rules asked for it; `digest` changes with what any of them says."""

    ids: tuple[str, ...]
    digest: str


class ApprovalGate(Gate):
    """Holds calls for people, and lets what they agreed to run: exactly that action, once.

    Args:
        leaves: how it is put into the log.
        key: returns the key under which actions are compared; kept outside the log.
        clock: what time it is.
        ids: where ids come from.
    """

    def __init__(self, leaves: Leaves, key: Callable[[], bytes], clock: Clock, ids: Ids) -> None:
        self._leaves = leaves
        self._make_key, self._made = key, b""
        self._clock = clock
        self._ids = ids

    @property
    def _key(self) -> bytes:
        self._made = self._made or self._make_key()
        return self._made

    def _hmac(self, message: bytes) -> bytes:
        key = self._key
        with forking.unforked:
            return hmac.digest(key, message, hashlib.sha256)

    def token(self, approval_id: str) -> str:
        """Return the token that resumes an approval's call; made again from the key, never stored."""
        tag = self._hmac(b"resume\0" + approval_id.encode())
        return f"{TOKEN_PREFIX}{approval_id}.{tag.hex()[:32]}"

    def approval_of(self, token: str) -> str | None:
        """Return which approval a token resumes, None if this plane did not issue it."""
        approval_id = token.removeprefix(TOKEN_PREFIX).rpartition(".")[0]
        genuine = hmac.compare_digest(token.encode(), self.token(approval_id).encode())
        return approval_id if genuine and approval_id else None

    def check(self, tx: Tx, judged: Judgement) -> None:
        """Let a held call run if people have agreed to exactly it, else ask them; a refusal that stands, stands."""
        if not judged.held or judged.refusal is not None:
            return
        named = judged.request.resume_token
        if named:
            self._resumed(tx, judged, named)
            return
        digest = self._digest(judged.request.action)
        record = judged.opened.record
        row = _row(
            tx.execute(
                _SAME,
                (record.session_id, self._leaves.org_id, digest, judged.request.action.definition_digest),
            ).fetchone()
        )
        if row is None or self._expired(tx, row):
            self._ask(tx, judged)
        else:
            self._answer(tx, judged, row)

    def _resumed(self, tx: Tx, judged: Judgement, token: str) -> None:
        approval_id = self.approval_of(token)
        row = self.row(tx, approval_id) if approval_id else None
        if row is None:
            judged.block("approval-unknown", "was resumed with a token that this plane did not issue")
        elif row.agent_uuid != judged.opened.record.agent_uuid:
            judged.block("approval-other-agent", "was resumed with an approval that was given to another agent")
        elif not hmac.compare_digest(row.action_hmac, self._digest(judged.request.action)):
            judged.block(
                "approval-other-action",
                f"was resumed with approval `{row.approval_id}`, which is for other arguments or another tool",
            )
        elif row.definition_digest != judged.request.action.definition_digest:
            judged.block(
                "approval-other-definition",
                f"was resumed with approval `{row.approval_id}`, given before the tool's definition changed",
            )
        else:
            self._answer(tx, judged, row)

    def _answer(self, tx: Tx, judged: Judgement, row: ApprovalRow) -> None:
        """Answer a call by the row of its own action."""
        if row.state == REDEEMED:
            if tx.execute(_SETTLED, (row.session_id, row.redeemed_task_id)).fetchone() is None:
                self._ask(tx, judged)  # it was let run and never settled: whether it ran, only people can find out
            else:
                judged.block("approval-used", f"was resumed with approval `{row.approval_id}`, which was used already")
        elif row.state == CANCELLED:
            judged.block("approval-cancelled", f"was resumed with approval `{row.approval_id}`, which was taken back")
        elif row.state == DENIED:
            judged.block("approval-denied", f"was denied by people (approval `{row.approval_id}`)")
        elif row.state == EXPIRED or self._expired(tx, row):
            judged.block("approval-expired", f"was resumed with approval `{row.approval_id}`, which has expired")
        elif asking_of(judged) != msgspec.json.decode(row.rules, type=Asking):
            self._ask(tx, judged)  # the rule says something else now: people agreed under the old one
        elif row.state == PENDING:
            self._hold(judged, row.approval_id, row.expires_at)
        else:
            self._redeem(tx, judged, row)

    def _redeem(self, tx: Tx, judged: Judgement, row: ApprovalRow) -> None:
        leaf = self._leaves.of(
            judged.opened.leaf, "approval.redeemed", task_id=judged.request.task_id, approval_id=row.approval_id
        )
        written = tx.append(leaf)
        done = tx.execute(_REDEEM, (written.at, judged.request.task_id, written.seq, row.approval_id))
        assert done.rowcount == 1, "the row was read in this transaction"
        judged.held = False
        judged.blocked_by, judged.reason = "", ""
        judged.approval_id = row.approval_id

    def _ask(self, tx: Tx, judged: Judgement) -> None:
        """Write a pending approval with the whole action: people see exactly what will run."""
        terms = judged.verdict.approval or ApprovalTerms()
        approval_id = self._ids.new("apr")
        expires_in_s = terms.expires_in_s or EXPIRES_IN_S
        expires_at = rfc3339(self._clock.time_ns() + expires_in_s * 1_000_000_000)
        asking = asking_of(judged)
        leaf = self._leaves.of(
            judged.opened.leaf,
            "approval.requested",
            task_id=judged.request.task_id,
            approval_id=approval_id,
            name=judged.request.action.name,
            rules=asking.ids,
            details={"approvers": str(terms.approvers), "expires_at": expires_at},
        )
        written = tx.append(leaf)
        asked = (terms.message, self._requester(tx, judged), terms.approvers, written.at, expires_at, written.seq)
        tx.execute(_NEW, (approval_id, *self._bound(judged, approval_id), canonical(asking).decode(), *asked))
        self._hold(judged, approval_id, expires_at)

    def _bound(self, judged: Judgement, approval_id: str) -> tuple[Any, ...]:
        """Return what an approval is bound to, in the order of its columns."""
        action, record = judged.request.action, judged.opened.record
        return (
            self._leaves.org_id,
            self._leaves.project_id,
            record.session_id,
            judged.request.task_id,
            record.agent_uuid,
            record.pipeline_uuid,
            canonical(msgspec.structs.replace(action, arguments=kept(action))),
            self._digest(action),
            action.definition_digest,
            hashlib.sha256(self.token(approval_id).encode()).digest(),
        )

    def _requester(self, tx: Tx, judged: Judgement) -> str:
        """Return who registered the agent that asks, "" if nobody did; they may not approve."""
        row = tx.execute(_REGISTERED_BY, (self._leaves.org_id, judged.opened.record.agent_uuid)).fetchone()
        return str(row[0]) if row else ""

    def _hold(self, judged: Judgement, approval_id: str, expires_at: str) -> None:
        judged.approval_id = approval_id
        base = judged.opened.pipeline.settings.server.url.rstrip("/")
        judged.refusal = ApprovalNeeded(
            approval_url=f"{base}/approvals/{approval_id}",
            resume_token=self.token(approval_id),
            expires_at=expires_at,
        )

    def row(self, tx: Tx, approval_id: str) -> ApprovalRow | None:
        """Return an approval's row as it is in this transaction."""
        return _row(tx.execute(_BY_ID, (*self._leaves.whose, approval_id)).fetchone())

    def _expired(self, tx: Tx, row: ApprovalRow) -> bool:
        if row.state not in (PENDING, APPROVED) or rfc3339(self._clock.time_ns()) < row.expires_at:
            return False
        expire(tx, self._leaves, row)
        return True

    def fingerprint(self, action: Action) -> str:
        """Return what an approval for an action is bound to, in hex: a keyed hash, which tells nobody what it was."""
        return self._digest(action).hex()

    def _digest(self, action: Action) -> bytes:
        """Return what an action is compared by; its definition is compared apart, for a message of its own."""
        bare = msgspec.structs.replace(action, definition_digest="")
        return self._hmac(b"action\0" + action_bytes(bare))


def expire(tx: Tx, leaves: Leaves, row: ApprovalRow) -> None:
    """Put an approval that ran out of time on record as expired; its arguments go."""
    if tx.execute(_EXPIRE, (row.approval_id,)).rowcount:
        tx.append(
            leaves.event(
                "approval.expired",
                session_id=row.session_id,
                task_id=row.task_id,
                agent_uuid=row.agent_uuid,
                approval_id=row.approval_id,
            )
        )


def asking_of(judged: Judgement) -> Asking:
    """Return the approval rules that matched, and a digest of what they say."""
    action, policy = judged.request.action, judged.opened.pipeline.policy
    matched = {match.id for match in judged.verdict.matches}
    rules = [
        msgspec.structs.replace(rule, source="")
        for rule in policy.rules_for(action.kind, action.name, action.server)
        if rule.id in matched and rule.effect == REQUIRE_APPROVAL
    ]
    return Asking(ids=tuple(r.id for r in rules), digest=hashlib.sha256(canonical(rules)).hexdigest())


def _row(row: tuple[Any, ...] | None) -> ApprovalRow | None:
    return None if row is None else ApprovalRow(**dict(zip(ApprovalRow.__struct_fields__, row, strict=True)))
