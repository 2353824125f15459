"""The engine's use cases: open, decide, settle, close; sync, written once, for every plane."""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.enforcement.port import Scanner
from tappass.engine import inspection
from tappass.engine.leaves import Leaves
from tappass.engine.pipelines import Pipelines
from tappass.engine.policy.facts import Facts, Verdict
from tappass.engine.sessions import Open, Sessions
from tappass.engine.store.sqlite import SqliteStore
from tappass.engine.store.transaction import Tx
from tappass.errors import TapPassConfigError
from tappass.wire.codec import canonical
from tappass.wire.correlation import Correlation
from tappass.wire.decisions import ALLOW, BLOCK, Action, Decision, DecisionRequest
from tappass.wire.endings import Ending, Settlement
from tappass.wire.findings import Finding
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids
from tappass.wire.obligations import Obligation, ScanResult
from tappass.wire.refusals import PolicyBlock, Refusal, TierDenied
from tappass.wire.sessions import OBSERVE, Opening, SessionRecord

_OPEN_CALL = "INSERT INTO open_call (task_id, org_id, session_id, decided_seq) VALUES (?, ?, ?, ?)"
_DEFINED = (
    "INSERT INTO tool_definition (org_id, project_id, digest, server, name, definition, first_seen_at, first_seen_seq)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_ENDED = "DELETE FROM open_call WHERE task_id = ? AND session_id = ?"


class Engine:
    """Answers for one project: which session, which policy, what was seen, and the record of it all."""

    def __init__(
        self,
        store: SqliteStore,
        pipelines: Pipelines,
        leaves: Leaves,
        *,
        clock: Clock = SYSTEM_CLOCK,
        ids: Ids = UUID_IDS,
    ) -> None:
        self.store = store
        self.pipelines = pipelines
        self.leaves = leaves
        self._clock = clock
        self.sessions = Sessions(store, pipelines, leaves, clock, ids)
        self._defined: set[str] = set()

    def open(self, opening: Opening) -> SessionRecord:
        """Open a session, durably."""
        return self.sessions.open(opening).record

    def close(self, session_id: str, status: str) -> None:
        """Close a session, durably."""
        self.sessions.close(session_id, status)

    def decide(self, request: DecisionRequest) -> Decision:
        """Answer whether a call may run; the answer is in the log before it is returned.

        Raises:
            TapPassConnectionError: it cannot be recorded.
            TapPassConfigError: the session is not open here.
        """
        opened = self.sessions.find(request.session_id)
        try:
            everywhere = opened.pipeline.detectors.inspect(request.action.arguments)
            findings = once(request.action, everywhere)
            verdict = opened.pipeline.policy.evaluate(self._facts(opened, request.action, findings))
        except Exception as error:
            everywhere, findings, verdict = (), (), failed(error)
        decision = self._answer(opened, request, verdict, everywhere)
        self._record(opened, request, decision, verdict)
        return decision

    def _facts(self, opened: Open, action: Action, findings: tuple[Finding, ...]) -> Facts:
        record = opened.record
        return Facts(
            kind=action.kind,
            name=action.name,
            server=action.server,
            arguments=action.arguments,
            agent_name=record.agent,
            agent_tier=record.tier,
            agent_uuid=record.agent_uuid,
            agent_framework=opened.framework,
            session_id=record.session_id,
            session_name=record.name,
            session_mode=record.mode,
            session_metadata=opened.metadata,
            session_implicit=opened.implicit,
            now_ns=self._clock.time_ns(),
            findings=findings,
        )

    def _answer(
        self, opened: Open, request: DecisionRequest, verdict: Verdict, findings: tuple[Finding, ...]
    ) -> Decision:
        """Turn a verdict into a decision: a refusal, or a yes with obligations the asker can carry out."""
        record = opened.record
        refusal = refusal_of(verdict, record.tier)
        obligations: tuple[Obligation, ...] = ()
        reason, would_be = verdict.reason, ""
        if refusal is not None and record.mode == OBSERVE:
            refusal, would_be = None, verdict.outcome
        if refusal is None:
            obligations = inspection.obligations(verdict, findings)
            unable = [
                o.__struct_config__.tag for o in obligations if o.__struct_config__.tag not in request.capabilities
            ]
            if unable:
                reason = f"needs the asker to carry out {', '.join(map(str, unable))}, which it did not say it can"
                refusal, obligations = PolicyBlock(blocked_by="capabilities"), ()
        return Decision(
            outcome=ALLOW if refusal is None else BLOCK,
            correlation=Correlation(
                session_id=record.session_id,
                task_id=request.task_id,
                agent_uuid=record.agent_uuid,
                pipeline_uuid=record.pipeline_uuid,
                audit_url=record.audit_url,
            ),
            reason=reason,
            refusal=refusal,
            rules=verdict.matches,
            obligations=obligations,
            findings=once(request.action, findings),
            would_be=would_be,
        )

    def _record(self, opened: Open, request: DecisionRequest, decision: Decision, verdict: Verdict) -> None:
        action, record = request.action, opened.record
        refusal = decision.refusal
        event = self.leaves.of(
            opened.leaf,
            "call.decided",
            task_id=request.task_id,
            kind=action.kind,
            name=action.name,
            server=action.server,
            definition=action.definition_digest,
            outcome=decision.outcome,
            would_be=decision.would_be,
            tier=record.tier,
            classification=verdict.classification,
            blocked_by=refusal.blocked_by if isinstance(refusal, PolicyBlock) else verdict.blocked_by,
            rules=tuple([match.id for match in decision.rules]),
            obligations=tuple([tag_of(obligation) for obligation in decision.obligations]),
            findings=counted(decision.findings),
            traceparent=request.traceparent,
        )
        body = self._content(
            opened, {"arguments": kept(action), "types": action.types}, decision.findings, "/arguments"
        )
        keys = (request.task_id, self.leaves.org_id, record.session_id)
        define = self._definition(request)

        def write(tx: Tx) -> None:
            written = tx.append(event, body)
            if decision.outcome == ALLOW:
                tx.execute(_OPEN_CALL, (*keys, written.seq))
            if define is not None:
                tx.execute(_DEFINED, (*define, written.at, written.seq))

        self.store.run(write)
        if define is not None:
            self._defined.add(action.definition_digest)

    def _definition(self, request: DecisionRequest) -> tuple[Any, ...] | None:
        """Return the row of a tool definition that was not seen before."""
        definition, digest = request.definition, request.action.definition_digest
        if definition is None or digest in self._defined:
            return None
        keys = (self.leaves.org_id, self.leaves.project_id, digest)
        return (*keys, definition.server, definition.name, canonical(definition))

    def _content(self, opened: Open, value: Any, findings: tuple[Finding, ...], where: str) -> bytes | None:
        """Return what is stored of a value: nothing, all, or all with every finding masked."""
        keep = opened.pipeline.settings.audit.content
        if keep == "none":
            return None
        try:
            body = msgspec.json.encode(inspection.masked(value, findings, where) if keep == "redacted" else value)
        except TapPassConfigError:
            return None  # what cannot be masked is not kept
        return body if len(body) <= opened.pipeline.settings.limits.content_bytes else None

    def settle(self, ending: Ending) -> Settlement:
        """Inspect a result and close the call's record; the record is written within 50 ms.

        An ending for a call that was never allowed, or has ended already, leaves nothing in the log.
        """
        opened = self.sessions.known(ending.session_id)
        if opened is None:
            return _LOST if ending.scan is not None else Settlement()
        settlement = Settlement(findings=ending.findings)
        if ending.scan is not None and ending.result is not msgspec.UNSET:
            try:
                settlement = inspection.settlement(opened.pipeline.detectors, ending.scan, ending.result, ending.opaque)
            except Exception as error:
                settlement = Settlement(
                    withheld_by="detector-failed", reason=f"a detector failed on its result: {type(error).__name__}"
                )
        self._end(opened, ending, settlement)
        return settlement

    def scanner(self, scan: ScanResult, session_id: str) -> Scanner:
        """Return a reader for one streamed result of a call in that session."""
        return inspection.scanner(scan)

    def _end(self, opened: Open, ending: Ending, settlement: Settlement) -> None:
        usage = ending.usage
        event = self.leaves.of(
            opened.leaf,
            "call.ended",
            task_id=ending.task_id,
            status=ending.status,
            blocked_by=settlement.withheld_by,
            findings=counted(settlement.findings),
            error_type=ending.error_type,
            duration_us=ending.duration_us,
            model=ending.model,
            tokens=(usage.prompt_tokens, usage.completion_tokens) if usage is not None else (0, 0),
            details={"result": "opaque"} if ending.opaque else {},
        )
        body = None
        if ending.result is not msgspec.UNSET and not ending.opaque:
            body = self._content(opened, {"result": ending.result}, settlement.findings, "/result")

        def write(tx: Tx) -> None:
            if tx.execute(_ENDED, (ending.task_id, ending.session_id)).rowcount:
                tx.append(event, body)

        self.store.later(write)

    def abandon(self, ending: Ending) -> None:
        """Queue an ending from a finaliser; an unknown session leaves the call unsettled, which the log shows."""
        if (opened := self.sessions.known(ending.session_id)) is not None:
            self._end(opened, ending, Settlement(findings=ending.findings))


_LOST = Settlement(
    withheld_by="session-unknown", reason="its session is unknown here, so its result cannot be inspected"
)


def failed(error: Exception) -> Verdict:
    """Return the block for a decision that could not be made."""
    return Verdict(
        outcome=BLOCK,
        blocked_by="detector-failed",
        reason=f"blocked because a detector failed ({type(error).__name__})",
    )


def refusal_of(verdict: Verdict, tier: str) -> Refusal | None:
    """Return what a verdict refuses with, None for a plain yes."""
    if verdict.outcome == ALLOW:
        return None
    if verdict.outcome == "require_tier":
        return TierDenied(required_tier=verdict.required_tier, actual_tier=tier)
    return PolicyBlock(blocked_by=verdict.blocked_by, classification=verdict.classification)


def repeats(action: Action) -> bool:
    """Tell whether an action's prompt is the text of its messages once more, there for rules to read."""
    return action.kind == "llm" and "messages" in action.arguments


def once(action: Action, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Return findings without those that only repeat others."""
    if not findings or not repeats(action):
        return findings
    return tuple(finding for finding in findings if finding.where != "/prompt")


def kept(action: Action) -> dict[str, Any]:
    """Return the arguments that are stored: each text once."""
    if not repeats(action):
        return action.arguments
    return {name: value for name, value in action.arguments.items() if name != "prompt"}


def tag_of(obligation: Obligation) -> str:
    """Return the name by which an asker says that it can carry an obligation out."""
    return str(obligation.__struct_config__.tag)


def counted(findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """Return findings as a leaf names them: `EMAIL:2`, sorted."""
    if not findings:
        return ()
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.kind] = counts.get(finding.kind, 0) + 1
    return tuple(f"{kind}:{count}" for kind, count in sorted(counts.items()))
