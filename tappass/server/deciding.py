"""From a question on the wire to its answer on the wire."""

from __future__ import annotations

import msgspec

from tappass.engine.credentials import Principal
from tappass.plane.embedded import EmbeddedPlane
from tappass.server import logs, metrics
from tappass.server.grouping import Grouping, in_group
from tappass.server.placing import owned, placed, placed_by
from tappass.server.working import work
from tappass.wire.decisions import ALLOW, NEEDS_APPROVAL, Decision, DecisionRequest
from tappass.wire.endings import Ending, Settlement
from tappass.wire.govern import GovernAnswer, GovernRequest, HeldCall, answer_of, question_of
from tappass.wire.ids import UUID_IDS
from tappass.wire.refusals import ApprovalNeeded, PolicyBlock, TierDenied


def answer(plane: EmbeddedPlane, principal: Principal, sent: GovernRequest, token: str = "") -> GovernAnswer:
    """Decide a call, durably, in the session where it belongs.

    Args:
        plane: of the caller's project.
        principal: who calls.
        sent: the question.
        token: the correlation token that came with it, "" for none; it goes before a session that is named.

    Raises:
        CorrelationRefused: the token does not hold.
        TapPassConfigError: the session is not this key's, or is closed.
        TapPassConnectionError: the answer cannot be recorded.
        msgspec.ValidationError: the payload has not the shape that its type asks for.
    """
    engine = plane.engine
    # Before a session is opened for it: a question that cannot be asked leaves nothing behind.
    asked = _asked(sent)
    session_id = placed_by(engine, principal, token) if token else placed(engine, principal, sent.session_id)
    asked = msgspec.structs.replace(asked, session_id=session_id)
    return _given(plane, asked, engine.govern(asked, credential=principal.key_id))


async def answer_in_group(
    plane: EmbeddedPlane, store: Grouping, principal: Principal, sent: GovernRequest
) -> GovernAnswer | None:
    """Decide a call as `answer` does, without a thread of its own; None, and nothing was done, if that cannot be.

    It can where the session is remembered: then what comes before the transaction waits for nothing.
    """
    opened = plane.engine.remembered(sent.session_id, principal.agent_uuid)
    if opened is None:
        return None
    asked = _asked(sent, opened.record.session_id)
    decision = await in_group(store, plane.engine.governing(asked, credential=principal.key_id))
    if isinstance(decision.refusal, ApprovalNeeded):
        # What people are shown may have to be looked up.
        return await work(_given, plane, asked, decision)
    return _given(plane, asked, decision)


def _asked(sent: GovernRequest, session_id: str = "") -> DecisionRequest:
    return question_of(sent, session_id=session_id, task_id=sent.behavior_id or UUID_IDS.new("tsk"))


def _given(plane: EmbeddedPlane, asked: DecisionRequest, decision: Decision) -> GovernAnswer:
    if decision.refusal is None and decision.outcome != ALLOW:
        refusal = PolicyBlock(blocked_by=decision.rules[0].id if decision.rules else decision.outcome)
        decision = msgspec.structs.replace(decision, refusal=refusal)
    return answer_of(decision, held=_held(plane, asked, decision), step=step_of(decision))


def told(given: GovernAnswer) -> GovernAnswer:
    """Put an answer into the line of its request and count it; for the request's own task, not a thread."""
    logs.note(session_id=given.session_id, task_id=given.task_id)
    metrics.decided(given.outcome)
    return given


def _held(plane: EmbeddedPlane, asked: DecisionRequest, decision: Decision) -> HeldCall | None:
    refusal = decision.refusal
    if not isinstance(refusal, ApprovalNeeded):
        return None
    voting = plane.engine.voting
    record = plane.engine.sessions.find(asked.session_id).record
    return HeldCall(
        request_id=voting.approval_of(refusal.resume_token),
        fingerprint=voting.fingerprint(asked.action),
        tier=record.tier,
        expires_at=refusal.expires_at,
        approval_url=refusal.approval_url,
        resume_token=refusal.resume_token,
    )


def step_of(decision: Decision) -> str:
    """Return what blocked a call or holds it: a rule's id where one did, else the kind of refusal."""
    refusal = decision.refusal
    if decision.outcome == ALLOW or refusal is None:
        return ""
    if isinstance(refusal, PolicyBlock):
        return refusal.blocked_by
    effect = "require_approval" if decision.outcome == NEEDS_APPROVAL else "require_tier"
    if isinstance(refusal, ApprovalNeeded | TierDenied):
        for match in decision.rules:
            if match.effect == effect:
                return match.id
    return str(refusal.__struct_config__.tag)


def settled(plane: EmbeddedPlane, principal: Principal, ending: Ending) -> Settlement:
    """Inspect a result and close its call's record, durably.

    Raises:
        TapPassConfigError: the session is not this key's.
        TapPassConnectionError: it cannot be recorded.
    """
    owned(plane.engine, principal, ending.session_id)
    return plane.engine.settle(ending, durable=True)
