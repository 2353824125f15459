"""THE path of a governed call: decide, run, settle, written once as generators that do no I/O.

The shape is httpx's `Auth.auth_flow`: a flow yields effects, a driver (sync or async) carries them out.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from tappass.enforcement.action import Call, action_bytes, refused_with, status_of
from tappass.enforcement.effects import Decide, Emit, End, Flow, OpenScanner, Pull, Run, Settle, Wait, do
from tappass.enforcement.latch import latch_key
from tappass.enforcement.listening import listens
from tappass.enforcement.obligations import bounded, scan_of
from tappass.enforcement.reading import Reading
from tappass.enforcement.showing import released, show
from tappass.enforcement.verdicts import break_glass, refusal
from tappass.errors import GovernanceDecision, TapPassError
from tappass.wire.decisions import Decision
from tappass.wire.endings import COMPLETED, FAILED, Ending, Settlement
from tappass.wire.findings import kinds_in
from tappass.wire.refusals import ApprovalNeeded

if TYPE_CHECKING:
    from tappass.enforcement.port import Scanner


def enforce(call: Call) -> Flow[Any]:
    """Govern one call: nothing runs before a durable yes, and what ran is settled.

    Raises:
        GovernanceDecision: the plane refused; nothing ran, or its result is withheld.
        TapPassConnectionError: the decision could not be recorded; nothing ran.
    """
    decision = yield from admit(call)
    call.scan = scan_of(decision)
    try:
        args, kwargs = bounded(call, decision)
        result = yield Run(call.run, args, kwargs, call.task_id)
    except GeneratorExit:
        raise  # the driver settles: a closing generator may not yield
    except BaseException as error:
        yield from ended(call.ending(status_of(error), error))
        note(call, error)
        raise
    return (yield from settle(call, decision, result))


def admit(call: Call) -> Flow[Decision]:
    """Ask, and raise unless the answer is a plain yes. A refusal is on record before it is raised."""
    latch = call.scope.latch
    pipeline = call.scope.correlation.pipeline_uuid
    if latch and (known := latch.find(latch_key(action_bytes(call.action), pipeline))) is not None:
        raise known
    decision = yield from asked(call)
    while (held := decision.refusal) is not None and isinstance(held, ApprovalNeeded) and call.waits():
        state = yield from do(Wait(held.resume_token, call.left_s()))
        if state == "pending":
            break
        call.resume_token = held.resume_token
        decision = yield from asked(call)
    if decision.break_glass is not None:
        call.scope.note_break_glass(decision.break_glass)
    refused: GovernanceDecision | None = None
    if refused_with(decision):
        refused = refusal(decision, call.action.name)
    elif decision.break_glass is not None and not call.respect_breakglass:
        refused = break_glass(decision, decision.break_glass, call.action.name)
        yield from ended(call.ending(FAILED, refused))
    if refused is None:
        if latch is not None and latch.stands:
            latch.passed(latch_key(action_bytes(call.action), pipeline))
        return decision
    keep(call, refused)
    raise refused


def asked(call: Call) -> Flow[Decision]:
    """Put the question to the plane; a question that was interrupted is settled."""
    try:
        decision: Decision = yield Decide(call.request())
    except GeneratorExit:
        raise
    except BaseException as error:
        # The answer may be on record although it never arrived; the plane ignores endings of what it never decided.
        yield from ended(call.ending(status_of(error), error))
        note(call, error)
        raise
    return decision


def ended(ending: Ending) -> Flow[None]:
    """Close the record of a call that has an error in flight, which nothing that happens here may replace."""
    with contextlib.suppress(Exception):
        yield from do(Settle(ending))


def keep(call: Call, error: GovernanceDecision) -> None:
    """Latch a refusal on the call's session."""
    if (latch := call.scope.latch) is not None:
        latch.keep(latch_key(action_bytes(call.action), call.scope.correlation.pipeline_uuid), error)


def note(call: Call, error: BaseException) -> None:
    """Let an error of ours stand, for a guard to bring back where a framework swallows it."""
    if isinstance(error, TapPassError) and (latch := call.scope.latch) is not None:
        latch.note(latch_key(action_bytes(call.action), call.scope.correlation.pipeline_uuid), error)


def settle(call: Call, decision: Decision, result: Any) -> Flow[Any]:
    """Close the record of a call that completed; return its result, redacted where the plane says so."""
    scan = call.scan
    if scan is None:
        yield from do(Settle(call.ending(COMPLETED)))
        return result
    shown, opaque = (call.show or show)(result)
    try:
        settlement: Settlement = yield Settle(call.ending(COMPLETED, scan=scan, result=shown, opaque=opaque))
        return released(call, decision, settlement, result)
    except TapPassError as error:
        note(call, error)
        raise


def enforce_stream(call: Call) -> Flow[Any]:
    """Govern one call whose result is an iterator: decided before it starts, scanned as it goes, settled at its end."""
    decision = yield from admit(call)
    scanner: Scanner | None = None
    try:
        args, kwargs = bounded(call, decision)
        if (scan := scan_of(decision)) is not None:
            scanner = yield from do(OpenScanner(scan, call.scope.session_id))
        source = yield from do(Run(call.run, args, kwargs, call.task_id))
        value = yield from pump(call, decision, source, scanner)
    except GeneratorExit:
        raise
    except BaseException as error:
        yield from ended(call.ending(status_of(error), error, **seen(scanner)))
        note(call, error)
        raise
    yield from do(Settle(call.ending(COMPLETED, **seen(scanner))))
    return value


def pump(call: Call, decision: Decision, source: Any, scanner: Scanner | None) -> Flow[Any]:
    """Move items from a source to the caller until it ends, both ways: what the caller sends or throws goes in."""
    reading = Reading(call, decision, scanner) if scanner is not None else None
    ready: deque[Any] = deque()
    pull = Pull(source)
    while not isinstance(item := (yield from do(pull)), End):
        if reading is None:
            ready.append(item)
        else:
            ready.extend(reading.take(item))
            if reading.holds and listens(source):
                # Its `yield` waits for the caller's word on this very item: something must stand for it now.
                ready.append(reading.so_far())
        pull = Pull(source)
        while ready:
            try:
                sent = yield from do(Emit(ready.popleft()))
            except GeneratorExit:
                raise
            except BaseException as error:
                pull = Pull(source, error=error)
                break
            pull = Pull(source, sent)
    for held in (*ready, *(reading.rest() if reading is not None else ())):
        yield from do(Emit(held))
    return item.value


def seen(scanner: Scanner | None) -> dict[str, Any]:
    """Return what a stream's scanner found and replaced, as fields of an ending."""
    if scanner is None:
        return {}
    return {"findings": scanner.findings, "redacted": kinds_in(scanner.redactions)}
