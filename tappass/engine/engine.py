"""The engine's use cases: open, decide, settle, close; sync, written once, for every plane."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from tappass.enforcement.port import Scanner
from tappass.engine import inspection
from tappass.engine.budgets import Budgets
from tappass.engine.controls import Controls, read_controls
from tappass.engine.issuer import Issuer
from tappass.engine.judgement import DETECTOR_FAILED, Judgement, judge, kept, tag_of
from tappass.engine.leaves import Leaves
from tappass.engine.pipelines import Pipelines
from tappass.engine.sessions import Open, Sessions
from tappass.engine.signing_keys import SigningKeys
from tappass.engine.store.port import Store, Tx
from tappass.engine.voting import Voting
from tappass.wire.codec import canonical
from tappass.wire.decisions import ALLOW, Decision, DecisionRequest
from tappass.wire.endings import Ending, Settlement
from tappass.wire.events import AuditEvent
from tappass.wire.findings import Finding, kinds_in
from tappass.wire.ids import SYSTEM_CLOCK, UUID_IDS, Clock, Ids
from tappass.wire.obligations import ScanResult
from tappass.wire.sessions import Opening, SessionRecord

_DEFINED = (
    "INSERT INTO tool_definition (org_id, project_id, digest, server, name, definition, first_seen_at, first_seen_seq)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)


class Gate(Protocol):
    """What has a say in a decision beside policy, inside the transaction that records it."""

    def check(self, tx: Tx, judged: Judgement) -> None:
        """Change the judgement, and write what that takes; costs nothing where it does not apply."""
        ...


class Engine:
    """Answers for one project: which session, which policy, what was seen, and the record of it all."""

    def __init__(
        self,
        store: Store,
        pipelines: Pipelines,
        leaves: Leaves,
        voting: Voting,
        *,
        first: Iterable[Gate] = (),
        gates: Iterable[Gate] = (),
        issuer: Issuer | None = None,
        clock: Clock = SYSTEM_CLOCK,
        ids: Ids = UUID_IDS,
    ) -> None:
        self.store = store
        self.pipelines = pipelines
        self.leaves = leaves
        self.voting = voting
        self.issuer = issuer or Issuer(store, leaves, SigningKeys(store, leaves, None, clock), clock=clock, ids=ids)
        self._clock = clock
        self.sessions = Sessions(store, pipelines, leaves, clock, ids)
        self._defined: set[str] = set()
        # The calls of this process that run now, and their sessions. A fork's child starts without: the parent's
        # calls end there.
        self._running: dict[str, str] = {}
        store.in_child(self._running.clear)
        self._controls = Controls()
        self.budgets = Budgets(leaves, clock)
        # What cannot be paid for need not be asked of people, nor use up their yes.
        self._gates: tuple[Gate, ...] = (*first, self.budgets, *gates)

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
        judged = judge(opened, request, self._controls, self._clock.time_ns())

        def write(tx: Tx) -> Judgement:
            final = judged
            changed = tx.control(self.leaves.org_id) != judged.controls.number
            if changed:
                # People have changed something since: judge again by what is in force in this transaction.
                self._controls = read_controls(tx, self.leaves.org_id, self.leaves.project_id)
            if (spent := self.budgets.facts(tx, judged)) or changed:
                final = judge(opened, request, self._controls, self._clock.time_ns(), spent)
            for gate in self._gates:
                gate.check(tx, final)
            final.oblige()
            self.budgets.spend(tx, final)
            self._record(tx, final)
            return final

        done = self.store.run(write)
        if done.outcome == ALLOW:
            self._running[request.task_id] = request.session_id
        self._defined.add(request.action.definition_digest)
        return done.decision()

    def _record(self, tx: Tx, judged: Judgement) -> None:
        opened, request = judged.opened, judged.request
        action, outcome = request.action, judged.outcome
        event = msgspec.structs.replace(
            opened.leaf,
            type="call.decided",
            at=self.leaves.now(),
            task_id=request.task_id,
            kind=action.kind,
            name=action.name,
            server=action.server,
            definition=action.definition_digest,
            outcome=outcome,
            would_be=judged.would_be,
            tier=judged.tier,
            classification=judged.verdict.classification,
            blocked_by=judged.blocked_by,
            rules=tuple([match.id for match in judged.verdict.matches]),
            obligations=tuple([tag_of(obligation) for obligation in judged.obligations]),
            findings=counted(judged.findings),
            approval_id=judged.approval_id,
            budgets=judged.budgets,
            traceparent=request.traceparent,
        )
        body = inspection.stored(
            opened.pipeline.settings,
            {"arguments": kept(action, judged.findings), "types": action.types},
            judged.findings,
            "/arguments",
            read=judged.read,
        )
        written = tx.append(event, body)
        if (define := self._definition(request)) is not None:
            tx.execute(_DEFINED, (*define, written.at, written.seq))

    def _definition(self, request: DecisionRequest) -> tuple[Any, ...] | None:
        """Return the row of a tool definition that was not seen before."""
        definition, digest = request.definition, request.action.definition_digest
        if definition is None or digest in self._defined:
            return None
        keys = (self.leaves.org_id, self.leaves.project_id, digest)
        return (*keys, definition.server, definition.name, canonical(definition))

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
                    withheld_by=DETECTOR_FAILED, reason=f"a detector failed on its result: {type(error).__name__}"
                )
        self._end(opened, ending, settlement)
        return settlement

    def scanner(self, scan: ScanResult, session_id: str) -> Scanner:
        """Return a reader for one streamed result of a call in that session."""
        return inspection.scanner(scan)

    def _end(self, opened: Open, ending: Ending, settlement: Settlement) -> None:
        usage = ending.usage
        masked = ending.redacted or kinds_in(settlement.redactions)
        event = msgspec.structs.replace(
            opened.leaf,
            type="call.ended",
            at=self.leaves.now(),
            task_id=ending.task_id,
            status=ending.status,
            blocked_by=settlement.withheld_by,
            obligations=("redact_result",) if masked else (),
            findings=counted(settlement.findings),
            error_type=ending.error_type,
            duration_us=ending.duration_us,
            model=ending.model,
            tokens=(usage.prompt_tokens, usage.completion_tokens) if usage is not None else (),
            details={"masked": ",".join(masked)} if masked else {"result": "opaque"} if ending.opaque else {},
        )
        body = None
        if ending.result is not msgspec.UNSET and not ending.opaque:
            body = inspection.stored(
                opened.pipeline.settings,
                {"result": ending.result},
                settlement.findings,
                "/result",
                read=settlement.withheld_by != DETECTOR_FAILED,
            )

        def write(tx: Tx) -> None:
            took, untold = self.budgets.ended(tx, opened, ending)
            tx.append(_with_budgets(event, took, untold) if took else event, body)

        # What this process did not let run, or has settled already, has no ending: nobody could have decided it.
        # Nor has a call of another session: what it spent is that session's.
        if self._running.get(ending.task_id) == ending.session_id and self._running.pop(ending.task_id, ""):
            self.store.later(write)

    def abandon(self, ending: Ending) -> None:
        """Queue an ending from a finaliser; an unknown session leaves the call unsettled, which the log shows."""
        if (opened := self.sessions.known(ending.session_id)) is not None:
            self._end(opened, ending, Settlement(findings=ending.findings))


_LOST = Settlement(
    withheld_by="session-unknown", reason="its session is unknown here, so its result cannot be inspected"
)


def _with_budgets(event: AuditEvent, took: tuple[str, ...], untold: bool) -> AuditEvent:
    """Return an ending with what the call took; where nobody said, that is what it had reserved."""
    details = event.details | {"usage": "not reported"} if untold else event.details
    return msgspec.structs.replace(event, budgets=took, details=details)


def counted(findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """Return findings as a leaf names them: `EMAIL:2`, sorted."""
    if not findings:
        return ()
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.kind] = counts.get(finding.kind, 0) + 1
    return tuple(f"{kind}:{count}" for kind, count in sorted(counts.items()))
