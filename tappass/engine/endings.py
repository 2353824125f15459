"""How calls end: each ending is recorded once, by whichever process it reaches."""

from __future__ import annotations

import msgspec

from tappass.engine import inspection
from tappass.engine.budgets import Budgets
from tappass.engine.judgement import DETECTOR_FAILED
from tappass.engine.leaves import Leaves
from tappass.engine.recalled import Open
from tappass.engine.store.ahead import Ask
from tappass.engine.store.port import Store, Tx
from tappass.wire.decisions import DecisionRequest
from tappass.wire.endings import Ending, Settlement
from tappass.wire.events import AuditEvent
from tappass.wire.findings import Finding, kinds_in

LOST = Settlement(
    withheld_by="session-unknown", reason="its session is unknown here, so its result cannot be inspected"
)

_BEGAN = "INSERT INTO running_call (org_id, session_id, task_id, decided_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_RUNS = "SELECT task_id FROM running_call WHERE org_id = ? AND session_id = ? AND task_id = ?"
_ENDED = "DELETE FROM running_call WHERE org_id = ? AND session_id = ? AND task_id = ?"


class Endings:
    """The calls of one project that run now, and the records of how they end.

    What was never let run, or has ended already, has no ending: nobody could have decided it. Nor has a call of
    another session: what it spent is that session's.

    Args:
        store: where they are kept.
        leaves: how they are put into the log.
        budgets: what they spend.
        shared: a call may end in another process than the one that let it run, so the database knows which ones run.

    Attributes:
        running: the calls that run now, and their sessions, where only this process can end them.
    """

    def __init__(self, store: Store, leaves: Leaves, budgets: Budgets, *, shared: bool) -> None:
        self._store, self._leaves, self._budgets = store, leaves, budgets
        self._shared = shared
        # A fork's child starts without: the parent's calls end there.
        self.running: dict[str, str] = {}
        store.in_child(self.running.clear)

    def begin(self, tx: Tx, request: DecisionRequest) -> None:
        """Note in the transaction of its decision that a call may run, where other processes may end it."""
        tx.put(_BEGAN, (self._leaves.org_id, request.session_id, request.task_id, self._leaves.now()))

    def record(self, opened: Open, ending: Ending, settlement: Settlement, *, durable: bool = False) -> None:
        """Write how a call ended, within 50 ms or before this returns."""
        if not self._shared and not self._take(ending):
            return
        event, body = self.leaf(opened, ending, settlement, self._leaves.now())

        def write(tx: Tx) -> None:
            if not self._shared or self._taken(tx, ending):
                self._put(tx, opened, ending, event, body)

        ahead = self.asks(ending) if self._shared else ()
        if durable:
            self._store.run(write, ahead=ahead)
        else:
            self._store.later(write, ahead=ahead)

    def write(self, tx: Tx, opened: Open, ending: Ending, event: AuditEvent, body: bytes | None) -> bool:
        """Write within a transaction how a call ended; tell whether it was still running."""
        if not (self._taken(tx, ending) if self._shared else self._take(ending)):
            return False
        self._put(tx, opened, ending, event, body)
        return True

    def _put(self, tx: Tx, opened: Open, ending: Ending, event: AuditEvent, body: bytes | None) -> None:
        took, untold = self._budgets.ended(tx, opened, ending)
        tx.append(_with_budgets(event, took, untold) if took else event, body)

    def _take(self, ending: Ending) -> bool:
        mine = self.running.get(ending.task_id) == ending.session_id
        return mine and bool(self.running.pop(ending.task_id, ""))

    def _taken(self, tx: Tx, ending: Ending) -> bool:
        (runs, key), *_ = self.asks(ending)
        if tx.execute(runs, key).fetchone() is None:
            return False
        tx.execute(_ENDED, key)
        return True

    def asks(self, ending: Ending) -> list[Ask]:
        """Return what `write` is going to ask."""
        return [(_RUNS, (self._leaves.org_id, ending.session_id, ending.task_id))]

    def leaf(self, opened: Open, ending: Ending, settlement: Settlement, at: str) -> tuple[AuditEvent, bytes | None]:
        """Return an ending as the log has it, and the content that is stored beside it."""
        usage = ending.usage
        masked = ending.redacted or kinds_in(settlement.redactions)
        event = msgspec.structs.replace(
            opened.leaf,
            type="call.ended",
            at=at,
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
        stored = None
        if ending.result is not msgspec.UNSET and not ending.opaque:
            stored = _body(opened, ending, settlement)
        return event, stored


def _body(opened: Open, ending: Ending, settlement: Settlement) -> bytes | None:
    try:
        return inspection.stored(
            opened.pipeline.settings,
            {"result": ending.result},
            settlement.findings,
            "/result",
            read=settlement.withheld_by != DETECTOR_FAILED,
        )
    except Exception:  # findings come from elsewhere and may point anywhere; what cannot be masked is not kept
        return None


def inspected(opened: Open, ending: Ending) -> Settlement:
    """Return what is to be done with a call's result."""
    if ending.scan is None or ending.result is msgspec.UNSET:
        return Settlement(findings=ending.findings)
    try:
        return inspection.settlement(opened.pipeline.detectors, ending.scan, ending.result, ending.opaque)
    except Exception as error:
        return Settlement(
            withheld_by=DETECTOR_FAILED, reason=f"a detector failed on its result: {type(error).__name__}"
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
