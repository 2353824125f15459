"""What people do with approvals: list, look, approve, deny, wait for an answer."""

from __future__ import annotations

import builtins
import threading
from typing import Any

import anyio
import msgspec

from tappass.engine.approvals import (
    APPROVED,
    CANCELLED,
    DENIED,
    PENDING,
    ApprovalGate,
    ApprovalRow,
    Asking,
    expire,
)
from tappass.engine.approver import Approver
from tappass.engine.hopping import hop
from tappass.engine.leaves import Leaves
from tappass.engine.policy.document import Rule, from_bundle
from tappass.engine.store.port import APPROVAL, Store, Tx
from tappass.errors import TapPassConfigError
from tappass.wire.codec import canonical
from tappass.wire.decisions import Action
from tappass.wire.ids import Clock, rfc3339

_LIST = (
    "SELECT approval.approval_id, approval.session_id, approval.task_id, approval.state, approval.action,"
    " approval.rules, approval.message, approval.approvers, approval.requested_at, approval.expires_at,"
    " approval.decided_at, approval.redeemed_at, agent.name, (SELECT count(*) FROM approval_vote"
    " WHERE approval_vote.approval_id = approval.approval_id AND vote = 'approve'), approval.pipeline_uuid,"
    " approval.requested_by, approval.definition_digest, approval.action_hmac FROM approval"
    " LEFT JOIN agent ON agent.agent_uuid = approval.agent_uuid WHERE approval.org_id = ?"
    " AND (? = '' OR approval.project_id = ?)"
)
_VOTES = (
    "SELECT person.name, vote, reason, voted_at FROM approval_vote JOIN person"
    " ON person.person_id = approval_vote.person_id WHERE approval_id = ? ORDER BY voted_at"
)
_VOTED = "SELECT vote FROM approval_vote WHERE approval_id = ? AND person_id = ?"
_VOTE = (
    "INSERT INTO approval_vote (approval_id, person_id, vote, reason, voted_at, voted_seq) VALUES (?, ?, ?, ?, ?, ?)"
)
_COUNT = "SELECT count(*) FROM approval_vote WHERE approval_id = ? AND vote = 'approve'"
_DECIDE = (
    "UPDATE approval SET state = ?, decided_at = ?, decided_seq = ?, action = NULL"
    " WHERE approval_id = ? AND state = 'pending'"
)
_WHOSE = "org_id = ? AND (? = '' OR project_id = ?)"
_STATE = f"SELECT state, expires_at FROM approval WHERE {_WHOSE} AND approval_id = ?"  # noqa: S608 (our own constant)
_SESSION_OF = f"SELECT session_id FROM approval WHERE {_WHOSE} AND approval_id = ?"  # noqa: S608
_STALE = (
    f"SELECT approval_id FROM approval WHERE {_WHOSE} AND state IN ('pending', 'approved')"  # noqa: S608
    " AND expires_at <= ? ORDER BY expires_at LIMIT 1000"
)
_OF_AGENT = " AND approval.agent_uuid = ? ORDER BY approval.requested_at DESC, approval.approval_id DESC LIMIT 1000"
_RULES = "SELECT bundle FROM policy_version WHERE org_id = ? AND pipeline_uuid = ?"
# Others are heard of; this often it is looked at all the same, for time runs out unheard.
LOOK_S = 1.0
TICK_S = 0.05


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """What one person said; `reason` is theirs."""

    by: str
    vote: str
    reason: str
    at: str


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """An approval as people read it; `action` is exactly what will run, null once that is decided.

    `action_digest` is what it is bound to: a keyed hash of the whole action, which tells nobody what it was.
    """

    approval_id: str
    session_id: str
    task_id: str
    state: str
    action: dict[str, Any] | None
    rules: tuple[str, ...]
    message: str
    approvers: int
    requested_at: str
    expires_at: str
    decided_at: str
    redeemed_at: str
    agent: str
    approved_by: int
    pipeline_uuid: str = ""
    requested_by: str = ""
    definition_digest: str = ""
    action_digest: str = ""
    votes: tuple[Vote, ...] = ()


class Voting:
    """The approvals of one project, for the people who decide.

    Attributes:
        changes: how often anybody, here or on another server, is known to have decided something.
    """

    def __init__(self, store: Store, leaves: Leaves, gate: ApprovalGate, clock: Clock) -> None:
        self._store = store
        self._leaves = leaves
        self._gate = gate
        self._clock = clock
        self._renew()
        store.in_child(self._renew)

    def _renew(self) -> None:
        self._changed = threading.Condition()
        self._listening = False
        self.changes = 0

    def list(self, state: str = PENDING) -> list[Held]:
        """Return approvals in a state ("" for all), the oldest first; what has run out of time expires now."""
        self.sweep()
        narrowed = " AND approval.state = ?" if state else ""
        rows = self._store.read.query(
            f"{_LIST}{narrowed} ORDER BY approval.requested_at, approval.approval_id",
            (*self._leaves.whose, state) if state else self._leaves.whose,
        )
        return [_held(row) for row in rows]

    def show(self, approval_id: str) -> Held:
        """Return one approval with its votes.

        Raises:
            TapPassConfigError: there is none of that id.
        """
        self.sweep()
        row = self._store.read.row(f"{_LIST} AND approval.approval_id = ?", (*self._leaves.whose, approval_id))
        if row is None:
            raise _unknown(approval_id)
        votes = tuple(
            Vote(by=by, vote=vote, reason=reason, at=at)
            for by, vote, reason, at in self._store.read.query(_VOTES, (approval_id,))
        )
        return msgspec.structs.replace(_held(row), votes=votes)

    def of_agent(self, agent_uuid: str, state: str = "") -> builtins.list[Held]:
        """Return what an agent asked for, the newest thousand, the oldest first; `state` narrows it ("" is all)."""
        self.sweep()
        rows = self._store.read.query(_LIST + _OF_AGENT, (*self._leaves.whose, agent_uuid))
        return [held for held in map(_held, reversed(rows)) if state in ("", held.state)]

    def asking(self, held: Held) -> tuple[Rule, ...]:
        """Return the rules that asked for an approval, as they were written then."""
        row = self._store.read.row(_RULES, (self._leaves.org_id, held.pipeline_uuid))
        if row is None:
            return ()
        return tuple(rule for rule in from_bundle(row[0]).rules if rule.id in held.rules)

    def approve(self, approval_id: str, by: Approver, reason: str) -> Held:
        """Agree; the call may run once as many distinct people have as its rule asks for.

        Raises:
            TapPassConfigError: it is not pending, this person asked for it, or has voted already.
        """
        return self._vote(approval_id, by, "approve", reason)

    def deny(self, approval_id: str, by: Approver, reason: str) -> Held:
        """Refuse; one is enough.

        Raises:
            TapPassConfigError: it is not pending, this person asked for it, or has voted already.
        """
        return self._vote(approval_id, by, "deny", reason)

    def cancel(self, approval_id: str, agent_uuid: str) -> Held:
        """Take a request back, as the agent that asked; the same call asks anew. One taken back already stays so.

        Raises:
            TapPassConfigError: it is no request of this agent's, or it was decided already.
        """
        self.sweep()

        def write(tx: Tx) -> None:
            row = self._gate.row(tx, approval_id)
            if row is None or row.agent_uuid != agent_uuid:
                raise _unknown(approval_id)
            if row.state == CANCELLED:
                return
            if row.state != PENDING:
                raise TapPassConfigError(f"approval `{approval_id}` is {row.state} already; nothing was changed")
            done = tx.append(self._leaf(row, "approval.cancelled"))
            tx.execute(_DECIDE, (CANCELLED, done.at, done.seq, approval_id))
            tx.notify(self._leaves.org_id, APPROVAL)

        self._store.run(write)
        self._wake()
        return self.show(approval_id)

    def _wake(self) -> None:
        with self._changed:
            self.changes += 1
            self._changed.notify_all()

    def _vote(self, approval_id: str, by: Approver, vote: str, reason: str) -> Held:
        self.sweep()

        def write(tx: Tx) -> None:
            row = self._votable(tx, approval_id, by)
            at = rfc3339(self._clock.time_ns())
            details = {"vote": vote}
            leaf = self._leaf(row, "approval.voted", actor=by.name, details=details)
            seq = tx.append(leaf, canonical({"reason": reason})).seq
            tx.execute(_VOTE, (approval_id, by.person_id, vote, reason, at, seq))
            agreed = tx.execute(_COUNT, (approval_id,)).fetchone()[0]
            if vote == "deny" or agreed >= row.approvers:
                state = DENIED if vote == "deny" else APPROVED
                kind = "approval.denied" if vote == "deny" else "approval.granted"
                done = tx.append(self._leaf(row, kind, actor=by.name, details={"votes": f"{agreed}/{row.approvers}"}))
                tx.execute(_DECIDE, (state, at, done.seq, approval_id))
                tx.notify(self._leaves.org_id, APPROVAL)

        self._store.run(write)
        self._wake()
        return self.show(approval_id)

    def _votable(self, tx: Tx, approval_id: str, by: Approver) -> ApprovalRow:
        row = self._gate.row(tx, approval_id)
        if row is None:
            raise _unknown(approval_id)
        if row.state != PENDING:
            raise TapPassConfigError(f"approval `{approval_id}` is {row.state} already; nothing was changed")
        if row.requested_by and row.requested_by == by.name:
            raise TapPassConfigError(
                f"{by.name} registered the agent that asks, and nobody approves their own request; ask somebody else"
            )
        if tx.execute(_VOTED, (approval_id, by.person_id)).fetchone() is not None:
            raise TapPassConfigError(
                f"{by.name} has voted on `{approval_id}` already, and each person counts once; ask somebody else"
            )
        return row

    def _leaf(self, row: ApprovalRow, kind: str, **fields: Any) -> Any:
        return self._leaves.event(
            kind,
            session_id=row.session_id,
            task_id=row.task_id,
            agent_uuid=row.agent_uuid,
            approval_id=row.approval_id,
            rules=msgspec.json.decode(row.rules, type=Asking).ids,
            **fields,
        )

    def sweep(self) -> None:
        """Expire what has run out of time."""
        now = rfc3339(self._clock.time_ns())
        if not (stale := self._store.read.query(_STALE, (*self._leaves.whose, now))):
            return

        def write(tx: Tx) -> None:
            for (approval_id,) in stale:
                if (row := self._gate.row(tx, approval_id)) is not None:
                    expire(tx, self._leaves, row)

        self._store.run(write)

    def state(self, token: str) -> str:
        """Return how the approval that a token resumes stands.

        Raises:
            TapPassConfigError: this plane did not issue the token.
        """
        approval_id = self._gate.approval_of(token)
        row = self._store.read.row(_STATE, (*self._leaves.whose, approval_id)) if approval_id else None
        if row is None:
            raise TapPassConfigError("this resume token was not issued by this plane; nothing was resumed")
        state, expires_at = row
        if state in (PENDING, APPROVED) and expires_at <= rfc3339(self._clock.time_ns()):
            self.sweep()
            return "expired"
        return str(state)

    def approval_of(self, token: str) -> str:
        """Return the approval that a token resumes.

        Raises:
            TapPassConfigError: this plane did not issue the token.
        """
        self.state(token)
        return self._gate.approval_of(token) or ""

    def fingerprint(self, action: Action) -> str:
        """Return what an approval for an action is bound to, in hex."""
        return self._gate.fingerprint(action)

    def session_of(self, token: str) -> str:
        """Return the session whose call the token resumes.

        Raises:
            TapPassConfigError: this plane did not issue the token.
        """
        self.state(token)
        row = self._store.read.row(_SESSION_OF, (*self._leaves.whose, self._gate.approval_of(token)))
        assert row is not None, "state() has found it"
        return str(row[0])

    def wait(self, token: str, timeout_s: float) -> str:
        """Wait until people have decided, or for that long; return how it stands then.

        Woken by what people decide here or on any other server. Holds no lock meanwhile.
        """
        self.listen()
        until_s = self._clock.monotonic_ns() / 1e9 + timeout_s  # may be infinite
        while True:
            seen = self.changes
            state = self.state(token)
            left_s = until_s - self._clock.monotonic_ns() / 1e9
            if state != PENDING or left_s <= 0:
                return state
            with self._changed:
                if self.changes == seen:
                    self._changed.wait(min(LOOK_S, left_s))

    def listen(self) -> None:
        """Count changes from now on; costs a thread, so only who waits asks for it."""
        with self._changed:
            listening, self._listening = self._listening, True
        if not listening:
            self._store.on_change(self._heard)

    def _heard(self, org_id: str, topic: str) -> None:
        if org_id in ("", self._leaves.org_id) and topic in ("", APPROVAL):
            self._wake()


async def await_decision(voting: Voting, token: str, timeout_s: float) -> str:
    """Wait as `Voting.wait` does; between looks the event loop is free, and no thread is held."""
    # However short the wait: who gives it no time wants to know how it stands.
    if (state := await hop(voting.state, token)) != PENDING or timeout_s <= 0:
        return state
    with anyio.move_on_after(timeout_s):
        await hop(lambda _: voting.listen(), None)
        while True:
            seen = voting.changes
            if (state := await hop(voting.state, token)) != PENDING:
                break
            looked_at = anyio.current_time()
            while voting.changes == seen and anyio.current_time() - looked_at < LOOK_S:  # noqa: ASYNC110
                await anyio.sleep(TICK_S)  # others vote on other threads
    return state


def _unknown(approval_id: str) -> TapPassConfigError:
    return TapPassConfigError(f"there is no approval `{approval_id}`; see `tappass approvals list --all`")


def _held(row: tuple[Any, ...]) -> Held:
    action = msgspec.json.decode(row[4]) if row[4] is not None else None
    rules = msgspec.json.decode(row[5], type=Asking).ids
    rest = dict(zip(Held.__struct_fields__[6:17], row[6:-1], strict=True))
    rest["agent"] = rest["agent"] or ""
    return Held(
        approval_id=row[0],
        session_id=row[1],
        task_id=row[2],
        state=row[3],
        action=action,
        rules=rules,
        action_digest=bytes(row[-1] or b"").hex(),
        **rest,
    )
