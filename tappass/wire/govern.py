"""`POST /v1/govern` and its ending: the question before a call as it travels, and the answer.

The members without a default elsewhere than here are the fixed part of the contract; the others are ours, and a client
that knows nothing of them is served all the same.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.wire.correlation import Correlation
from tappass.wire.decisions import Action, Decision, DecisionRequest, RuleMatch, ToolDefinition
from tappass.wire.findings import Finding
from tappass.wire.obligations import Obligation
from tappass.wire.refusals import ApprovalNeeded, BreakGlass, Refusal

TOOL_CALL, LLM_CALL = "TOOL_CALL", "LLM_CALL"
# Governed by name: the action's name is the type, its arguments are the payload.
NAMED = ("CODE_EXEC", "CREDENTIAL_ACCESS", "STATE_TRANSITION", "SYSTEM_OF_RECORD_WRITE")
TYPES = (LLM_CALL, TOOL_CALL, *NAMED)


class GovernRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The question whether a call may run.

    `behavior_id` is the caller's own id of the call: the task_id, and what a repeated question is recognised by.
    `capabilities` are the obligations that the caller can carry out; `types`, `definition`, `definition_digest` and
    `doubt` are those of `Action` and `DecisionRequest`. `resume_token` redeems an approval from anywhere.
    """

    type: str
    payload: dict[str, Any]
    behavior_id: str = ""
    session_id: str = ""
    agent_id: str = ""
    org_id: str = ""
    capabilities: tuple[str, ...] = ()
    types: dict[str, str] = {}
    definition: ToolDefinition | None = None
    definition_digest: str = ""
    resume_token: str = ""
    traceparent: str = ""
    doubt: str = ""


class HeldCall(msgspec.Struct, frozen=True, kw_only=True):
    """The approval that a call waits for; `fingerprint` is the keyed digest of the action, `tier` the agent's."""

    request_id: str
    fingerprint: str
    tier: str
    expires_at: str
    approval_url: str
    resume_token: str


class GovernAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: `outcome` is `allow`, `block` or `needs_approval`; anything else is a block.

    `details.blocking_step` names what blocked. `pipeline_id` is the `pipeline_uuid`. `mandate` is null: nothing is
    delegated. `error` says no in one of six ways, as error bodies do.
    """

    outcome: str
    reason: str
    behavior_id: str
    pipeline_id: str
    decided_at: str
    session_id: str
    task_id: str
    agent_uuid: str
    pipeline_uuid: str
    audit_url: str
    details: dict[str, Any] = {}
    obligations: tuple[Obligation, ...] = ()
    mandate: None = None
    approval: HeldCall | None = None
    error: Refusal | None = None
    rules: tuple[RuleMatch, ...] = ()
    findings: tuple[Finding, ...] = ()
    would_be: str = ""
    break_glass: BreakGlass | None = None


def request_of(asked: DecisionRequest) -> GovernRequest:
    """Return a question as it travels."""
    action = asked.action
    if action.kind == "llm":
        kind, payload = LLM_CALL, action.arguments | {"model": action.name}
    else:
        kind, payload = TOOL_CALL, {"tool": action.name, "args": action.arguments, "server": action.server}
    return GovernRequest(
        type=kind,
        payload=payload,
        behavior_id=asked.task_id,
        session_id=asked.session_id,
        capabilities=asked.capabilities,
        types=action.types,
        definition=asked.definition,
        definition_digest=action.definition_digest,
        resume_token=asked.resume_token,
        traceparent=asked.traceparent,
        doubt=asked.doubt,
    )


def question_of(sent: GovernRequest, *, session_id: str, task_id: str) -> DecisionRequest:
    """Return a question as the engine takes it, placed where the server says it belongs.

    Raises:
        msgspec.ValidationError: the type is unknown, or the payload has not the shape that its type asks for.
    """
    return DecisionRequest(
        action=_action_of(sent),
        session_id=session_id,
        task_id=task_id,
        capabilities=sent.capabilities,
        definition=sent.definition,
        resume_token=sent.resume_token,
        traceparent=sent.traceparent,
        doubt=sent.doubt,
    )


class _ToolPayload(msgspec.Struct, forbid_unknown_fields=True):
    tool: str
    args: dict[str, Any] = {}
    server: str = ""


def _action_of(sent: GovernRequest) -> Action:
    kind, name, server, payload = "tool", sent.type, "", sent.payload
    if sent.type == TOOL_CALL:
        # A null server is an absent one: clients that know of none send it so.
        told = {key: value for key, value in payload.items() if (key, value) != ("server", None)}
        tool = msgspec.convert(told, _ToolPayload)
        name, server, payload = _named(tool.tool, "payload.tool"), tool.server, tool.args
    elif sent.type == LLM_CALL:
        kind, name = "llm", _named(payload.get("model"), "payload.model")
        payload = {key: value for key, value in payload.items() if key != "model"}
    elif sent.type not in NAMED:
        raise msgspec.ValidationError(f"Unknown `type`, use one of {', '.join(TYPES)} - at `$.type`")
    return Action(
        kind=kind,
        name=name,
        arguments=payload,
        types=sent.types,
        server=server,
        definition_digest=sent.definition_digest,
    )


def _named(value: Any, where: str) -> str:
    # A NUL is no text to PostgreSQL.
    if not isinstance(value, str) or not value or "\0" in value:
        raise msgspec.ValidationError(f"Expected a name - at `$.{where}`")
    return value


def answer_of(decision: Decision, *, held: HeldCall | None = None, step: str = "") -> GovernAnswer:
    """Return a decision as it travels; `step` names what blocked it."""
    ids = decision.correlation
    return GovernAnswer(
        outcome=decision.outcome,
        reason=decision.reason,
        behavior_id=ids.task_id,
        pipeline_id=ids.pipeline_uuid,
        decided_at=decision.decided_at,
        **msgspec.structs.asdict(ids),
        details={"blocking_step": step} if step else {},
        obligations=decision.obligations,
        approval=held,
        error=decision.refusal,
        rules=decision.rules,
        findings=decision.findings,
        would_be=decision.would_be,
        break_glass=decision.break_glass,
    )


def decision_of(answer: GovernAnswer) -> Decision:
    """Return the decision that an answer brought."""
    refusal = answer.error
    if refusal is None and answer.approval is not None:
        held = answer.approval
        refusal = ApprovalNeeded(
            approval_url=held.approval_url, resume_token=held.resume_token, expires_at=held.expires_at
        )
    return Decision(
        outcome=answer.outcome,
        correlation=Correlation.of(answer),
        reason=answer.reason,
        refusal=refusal,
        rules=answer.rules,
        obligations=answer.obligations,
        findings=answer.findings,
        would_be=answer.would_be,
        break_glass=answer.break_glass,
        decided_at=answer.decided_at,
    )
