"""A session's record as people read it: its calls in order, each decision beside its ending, child sessions inside."""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.engine.store.reading import Reader, SessionRow
from tappass.wire.events import AuditEvent

_PAGE = 1000
_CHILDREN = "SELECT session_id FROM session WHERE parent = ? ORDER BY opened_at, session_id"
_COUNTS = (
    "SELECT session_id, sum(type = 'call.decided'), sum(type = 'call.ended'),"
    # No text in a leaf can look like this: its quotes are escaped there.
    " sum(type = 'call.decided' AND instr(bytes, CAST('\"outcome\":\"needs_approval\"' AS BLOB)) > 0) FROM leaf"
    " WHERE session_id IN ({}) GROUP BY session_id"
)
_NAMES = "SELECT agent_uuid, name FROM agent WHERE agent_uuid IN ({})"
_SAID = "SELECT seq, body FROM leaf WHERE session_id = ? AND body IS NOT NULL"
# A parent that is its own descendant cannot be written by this plane; a forged database could hold one.
_DEEPEST = 50


class VoteLine(msgspec.Struct, frozen=True, kw_only=True):
    """What one person said about an approval; `reason` is "" if its content is not kept."""

    by: str
    vote: str
    at: str
    reason: str = ""


class ApprovalLine(msgspec.Struct, frozen=True, kw_only=True):
    """The approval that a call waited for, or that let it run; `state` is where it got to in this session."""

    approval_id: str
    state: str = "pending"
    expires_at: str = ""
    votes: tuple[VoteLine, ...] = ()


class CallLine(msgspec.Struct, frozen=True, kw_only=True):
    """One call: what was decided, and how it ended.

    `status` is "" while it has no ending: it runs, or its process was lost. `arguments` are as they were stored, None
    if their content is not kept; `result_findings` is what its result held, `masked` which kinds of it
    were replaced, `withheld_by` what kept all of it back.
    """

    task_id: str
    seq: int
    at: str
    kind: str
    name: str
    server: str = ""
    outcome: str
    would_be: str = ""
    rules: tuple[str, ...] = ()
    blocked_by: str = ""
    classification: str = ""
    obligations: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    arguments: dict[str, Any] | None = None
    status: str = ""
    duration_us: int = 0
    error_type: str = ""
    withheld_by: str = ""
    result_findings: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    model: str = ""
    tokens: tuple[int, ...] = ()
    approval: ApprovalLine | None = None

    @property
    def unsettled(self) -> bool:
        """It was allowed and has no ending."""
        return self.outcome == "allow" and not self.status


class SessionLine(msgspec.Struct, frozen=True, kw_only=True):
    """One session in a list."""

    session_id: str
    parent: str
    name: str
    agent: str
    kind: str
    status: str
    mode: str
    opened_at: str
    closed_at: str
    calls: int
    refused: int
    unsettled: int
    held: int = 0


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """A session with everything that happened in it, `children` nested."""

    session: SessionLine
    agent_uuid: str
    pipeline_uuid: str
    audit_url: str
    tier: str
    opened_seq: int
    metadata: dict[str, Any]
    calls: tuple[CallLine, ...]
    children: tuple[Timeline, ...]

    @property
    def entries(self) -> list[CallLine | Timeline]:
        """Calls and child sessions in the order in which they began."""
        return sorted([*self.calls, *self.children], key=lambda each: _place(each))


def _place(entry: CallLine | Timeline) -> int:
    return entry.seq if isinstance(entry, CallLine) else entry.opened_seq


def session_lines(read: Reader, rows: list[SessionRow]) -> list[SessionLine]:
    """Return sessions with the names of their agents and the counts of their calls."""
    if not rows:
        return []
    ids = [row.session_id for row in rows]
    # What was decided, not held for people, and neither ended nor is open was refused.
    unsettled = {row.session_id: row.open_calls for row in rows}
    counts = {
        name: (decided, decided - ended - held - unsettled[name], unsettled[name], held)
        for name, decided, ended, held in read.query(_COUNTS.format(_marks(ids)), ids)
    }
    agents = sorted({row.agent_uuid for row in rows})
    names: dict[str, str] = dict(read.query(_NAMES.format(_marks(agents)), agents))
    return [_line(row, names.get(row.agent_uuid, ""), counts.get(row.session_id, (0, 0, 0, 0))) for row in rows]


def _marks(values: list[str]) -> str:
    return ", ".join("?" * len(values))


def _line(row: SessionRow, agent: str, counts: tuple[int, ...]) -> SessionLine:
    fields = {name: getattr(row, name) for name in SessionLine.__struct_fields__ if hasattr(row, name)}
    return SessionLine(**fields, agent=agent, calls=counts[0], refused=counts[1], unsettled=counts[2], held=counts[3])


def timeline(read: Reader, session_id: str, *, depth: int = 0) -> Timeline | None:
    """Return what happened in a session, or None if there is no such session."""
    row = read.session(session_id)
    if row is None:
        return None
    events = _events(read, session_id)
    contents = _contents(read, session_id)
    opened = next((event for event in events if event.type == "session.opened"), None)
    said = contents.get(opened.seq, {}) if opened is not None else {}
    inner = [child[0] for child in read.query(_CHILDREN, (session_id,))] if depth < _DEEPEST else []
    children = [found for child in inner if (found := timeline(read, child, depth=depth + 1)) is not None]
    return Timeline(
        session=session_lines(read, [row])[0],
        agent_uuid=row.agent_uuid,
        pipeline_uuid=row.pipeline_uuid,
        audit_url=opened.audit_url if opened is not None else "",
        tier=row.tier,
        opened_seq=row.opened_seq or 0,
        metadata=said.get("metadata") or {},
        calls=_calls(events, contents),
        children=tuple(children),
    )


def _events(read: Reader, session_id: str) -> list[AuditEvent]:
    found: list[AuditEvent] = []
    while page := read.events(session_id=session_id, after=found[-1].seq if found else -1, limit=_PAGE):
        found += page
    return found


def _contents(read: Reader, session_id: str) -> dict[int, dict[str, Any]]:
    """Return the stored contents of a session's events by their place; what was erased is not among them."""
    said = ((seq, msgspec.json.decode(body)) for seq, body in read.query(_SAID, (session_id,)))
    return {seq: value for seq, value in said if isinstance(value, dict)}


def _calls(events: list[AuditEvent], contents: dict[int, dict[str, Any]]) -> tuple[CallLine, ...]:
    endings = {event.task_id: event for event in events if event.type == "call.ended"}
    approvals = _approvals(events, contents)
    lines: list[CallLine] = []
    for event in events:
        if event.type == "call.decided":
            # A call that waited was decided twice: only the yes can have an ending.
            ending = endings.get(event.task_id) if event.outcome == "allow" else None
            lines.append(_call(event, ending, contents.get(event.seq, {}), approvals.get(event.approval_id)))
    return tuple(lines)


_STATES = {f"approval.{state}": state for state in ("denied", "expired", "redeemed")} | {"approval.granted": "approved"}


def _approvals(events: list[AuditEvent], contents: dict[int, dict[str, Any]]) -> dict[str, ApprovalLine]:
    """Return what became of each approval that this session asked for, by its id."""
    found: dict[str, ApprovalLine] = {}
    for event in events:
        if not event.approval_id or not event.type.startswith("approval."):
            continue
        line = found.get(event.approval_id) or ApprovalLine(approval_id=event.approval_id)
        if event.type == "approval.requested":
            line = msgspec.structs.replace(line, expires_at=event.details.get("expires_at", ""))
        elif event.type == "approval.voted":
            reason = contents.get(event.seq, {}).get("reason") or ""
            vote = VoteLine(by=event.actor, vote=event.details.get("vote", ""), at=event.at, reason=reason)
            line = msgspec.structs.replace(line, votes=(*line.votes, vote))
        found[event.approval_id] = msgspec.structs.replace(line, state=_STATES.get(event.type, line.state))
    return found


def _call(
    event: AuditEvent, ending: AuditEvent | None, said: dict[str, Any], approval: ApprovalLine | None
) -> CallLine:
    taken = ("task_id", "seq", "at", "kind", "name", "server", "outcome", "would_be", "rules", "blocked_by")
    fields = {name: getattr(event, name) for name in (*taken, "classification", "obligations", "findings")}
    if ending is not None:
        fields |= {name: getattr(ending, name) for name in ("status", "duration_us", "error_type", "model", "tokens")}
        fields |= {"withheld_by": ending.blocked_by, "result_findings": ending.findings}
        fields["masked"] = tuple(filter(None, ending.details.get("masked", "").split(",")))
    return CallLine(**fields, arguments=said.get("arguments"), approval=approval)
