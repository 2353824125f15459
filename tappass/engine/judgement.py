"""One call, judged: what policy says, what people have set, and what comes of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from tappass.engine import inspection
from tappass.engine.controls import Controls
from tappass.engine.policy.document import REQUIRE_APPROVAL, REQUIRE_TIER, TIERS
from tappass.engine.policy.facts import Facts, Verdict
from tappass.engine.recalled import Open
from tappass.wire.codec import encode
from tappass.wire.correlation import Correlation
from tappass.wire.decisions import ALLOW, BLOCK, NEEDS_APPROVAL, Action, Decision, DecisionRequest
from tappass.wire.findings import Finding
from tappass.wire.obligations import Obligation
from tappass.wire.refusals import ApprovalNeeded, BreakGlass, PolicyBlock, Refusal, TierDenied
from tappass.wire.sessions import OBSERVE

if TYPE_CHECKING:
    from tappass.engine.budgets import Spending


_NOTHING_SPENT: dict[str, Any] = {}

DETECTOR_FAILED, TOO_LARGE = "detector-failed", "limits.argument_bytes"


class Judgement:
    """What is known of one call while it is decided; the gates change it, then it is recorded.

    Attributes:
        refusal: what it is refused with, None for a yes.
        held: policy asks for people, and nobody has agreed yet.
        would_be: the outcome that observe or break-glass relaxed.
        approval_id: the approval that it waits for, or that let it run.
        decided_at: when it was put on record, as the log has it.
        read: detectors have read its arguments.
        body: what is stored of its arguments, if that was made ready.
        spending: what it is going to spend, None where nothing is counted.
    """

    __slots__ = (
        "approval_id",
        "blocked_by",
        "body",
        "break_glass",
        "budgets",
        "controls",
        "decided_at",
        "everywhere",
        "findings",
        "held",
        "obligations",
        "opened",
        "read",
        "reason",
        "refusal",
        "request",
        "spending",
        "verdict",
        "would_be",
    )

    def __init__(
        self,
        opened: Open,
        request: DecisionRequest,
        controls: Controls,
        verdict: Verdict,
        everywhere: tuple[Finding, ...],
        findings: tuple[Finding, ...],
    ) -> None:
        self.opened = opened
        self.request = request
        self.controls = controls
        self.verdict = verdict
        self.everywhere = everywhere
        self.findings = findings
        self.reason = verdict.reason
        self.blocked_by = verdict.blocked_by
        self.held = verdict.outcome == REQUIRE_APPROVAL
        self.refusal: Refusal | None = None
        self.obligations: tuple[Obligation, ...] = ()
        self.would_be = ""
        self.break_glass: BreakGlass | None = None
        self.approval_id = ""
        self.decided_at = ""
        self.read = True
        self.body: bytes | UnsetType | None = UNSET
        self.budgets: tuple[str, ...] = ()
        self.spending: Spending | None = None

    @property
    def tier(self) -> str:
        """The agent's trust tier as it is now."""
        return self.controls.tier(self.opened.record.agent_uuid, self.opened.record.tier)

    @property
    def outcome(self) -> str:
        """What the answer is, as it stands."""
        if self.refusal is None and not self.held:
            return ALLOW
        return NEEDS_APPROVAL if isinstance(self.refusal, ApprovalNeeded) or self.refusal is None else BLOCK

    def block(self, blocked_by: str, reason: str, **details: str) -> None:
        """Refuse the call; a refusal that stands already stays."""
        if self.refusal is None:
            self.held = False
            self.blocked_by, self.reason = blocked_by, reason
            self.refusal = PolicyBlock(
                blocked_by=blocked_by, classification=self.verdict.classification, details=details
            )

    def relax(self) -> None:
        """Let the call run although it was refused, on the record."""
        if self.refusal is not None or self.held:
            self.would_be = self.outcome
            self.refusal, self.held = None, False

    def oblige(self) -> None:
        """Attach the obligations of a yes; what the asker cannot carry out makes it a no."""
        if self.refusal is not None or self.held:
            return
        obligations = inspection.obligations(self.verdict, self.everywhere)
        unable = [tag for o in obligations if (tag := tag_of(o)) not in self.request.capabilities]
        if unable:
            self.block("capabilities", f"needs the asker to carry out {', '.join(unable)}, which it did not say it can")
        else:
            self.obligations = obligations

    def correlation(self) -> Correlation:
        """Return the call's five ids."""
        record = self.opened.record
        return Correlation(
            session_id=record.session_id,
            task_id=self.request.task_id,
            agent_uuid=record.agent_uuid,
            pipeline_uuid=record.pipeline_uuid,
            audit_url=record.audit_url,
        )

    def decision(self) -> Decision:
        """Return the answer."""
        return Decision(
            outcome=self.outcome,
            correlation=self.correlation(),
            reason=self.reason,
            refusal=self.refusal,
            rules=self.verdict.matches,
            obligations=self.obligations,
            findings=self.findings,
            would_be=self.would_be,
            break_glass=self.break_glass,
            decided_at=self.decided_at,
        )


def judge(
    opened: Open, request: DecisionRequest, controls: Controls, now_ns: int, spent: dict[str, Any] = _NOTHING_SPENT
) -> Judgement:
    """Ask the detectors and the policy about a call; whatever goes wrong there blocks it."""
    action = request.action
    if (size := len(encode(kept(action)))) > (most := opened.pipeline.settings.limits.argument_bytes):
        return _too_large(opened, request, controls, size, most)
    try:
        everywhere = opened.pipeline.detectors.inspect(inspection.readable(action))
        findings = once(action, everywhere)
        verdict = opened.pipeline.policy.evaluate(facts_of(opened, action, controls, findings, now_ns, spent))
    except Exception as error:  # a detector may be anybody's; whatever it does, the call is blocked
        everywhere, findings = (), ()
        reason = f"blocked because a detector failed ({type(error).__name__})"
        verdict = Verdict(outcome=BLOCK, blocked_by=DETECTOR_FAILED, reason=reason)
    judged = Judgement(opened, request, controls, verdict, everywhere, findings)
    judged.read = verdict.blocked_by != DETECTOR_FAILED
    if verdict.outcome == REQUIRE_TIER:
        judged.refusal = TierDenied(required_tier=verdict.required_tier, actual_tier=judged.tier)
    elif verdict.outcome not in (ALLOW, REQUIRE_APPROVAL):
        judged.refusal = PolicyBlock(blocked_by=verdict.blocked_by, classification=verdict.classification)
    if request.definition is not None and request.definition.min_tier:
        _need_tier(judged, request.definition.min_tier)
    if opened.record.mode == OBSERVE:
        judged.relax()
    return judged


def _too_large(opened: Open, request: DecisionRequest, controls: Controls, size: int, most: int) -> Judgement:
    """Refuse arguments that are too many to be read, also where policy's own refusals are only observed."""
    reason = f"blocked: its arguments have {size:,} bytes, and the setting `{TOO_LARGE}` allows {most:,}"
    judged = Judgement(opened, request, controls, Verdict(outcome=BLOCK, blocked_by=TOO_LARGE, reason=reason), (), ())
    judged.refusal = PolicyBlock(blocked_by=TOO_LARGE)
    judged.read = False
    return judged


def _need_tier(judged: Judgement, needed: str) -> None:
    """Refuse what the tool itself keeps for agents of a higher tier."""
    if judged.refusal is None and (needed not in TIERS or TIERS.index(judged.tier) < TIERS.index(needed)):
        judged.held = False
        judged.blocked_by = "min_tier"
        judged.reason = f"needs the trust tier {needed}, and the agent `{judged.opened.record.agent}` has {judged.tier}"
        judged.refusal = TierDenied(required_tier=needed, actual_tier=judged.tier)


def facts_of(
    opened: Open,
    action: Action,
    controls: Controls,
    findings: tuple[Finding, ...],
    now_ns: int,
    spent: dict[str, Any] = _NOTHING_SPENT,
) -> Facts:
    """Return what rules may read about a call."""
    record = opened.record
    return Facts(
        kind=action.kind,
        name=action.name,
        server=action.server,
        arguments=action.arguments,
        agent_name=record.agent,
        agent_tier=controls.tier(record.agent_uuid, record.tier),
        agent_uuid=record.agent_uuid,
        agent_framework=opened.framework,
        session_id=record.session_id,
        session_name=record.name,
        sessions_around=opened.around,
        session_mode=record.mode,
        session_metadata=opened.metadata,
        session_implicit=opened.implicit,
        now_ns=now_ns,
        budget=spent,
        findings=findings,
    )


def once(action: Action, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Return findings without those that only repeat others."""
    if not findings or not repeats(action):
        return findings
    return tuple(finding for finding in findings if finding.where != "/prompt")


def kept(action: Action, findings: tuple[Finding, ...] = ()) -> dict[str, Any]:
    """Return the arguments that are stored: each text once, and as it was read where something was found."""
    if not repeats(action):
        return inspection.readable(action) if findings else action.arguments
    return {name: value for name, value in action.arguments.items() if name != "prompt"}


def repeats(action: Action) -> bool:
    """Tell whether an action's prompt is the text of its messages once more, there for rules to read."""
    return action.kind == "llm" and "messages" in action.arguments


def tag_of(obligation: Obligation) -> str:
    """Return the name by which an asker says that it can carry an obligation out."""
    return str(obligation.__struct_config__.tag)
