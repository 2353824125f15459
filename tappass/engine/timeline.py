"""A session's record as people read it: its calls in order, each decision beside its ending, child sessions inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tappass.engine.policy.document import Rule, from_bundle
from tappass.engine.store.reading import DEFAULT_ORG, Reader, SessionRow
from tappass.wire.events import AuditEvent

_PAGE = 1000
_CHILDREN = "SELECT session_id, opened_seq FROM session WHERE parent = ? AND org_id = ? ORDER BY opened_seq, session_id"
_COUNTS = (
    "SELECT session_id, count(CASE WHEN type = 'call.decided' THEN 1 END),"
    " count(CASE WHEN type = 'call.ended' THEN 1 END), count(CASE WHEN type = 'call.decided' AND {} THEN 1 END)"
    " FROM leaf WHERE session_id IN ({}) GROUP BY session_id"
)
_NAMES = "SELECT agent_uuid, name FROM agent WHERE agent_uuid IN ({})"
_SAID = "SELECT seq, body FROM leaf WHERE session_id = ? AND body IS NOT NULL{}"
_ENDINGS = ("call.ended", "break_glass.used")
_STEPS = ("requested", "voted", "granted", "denied", "expired", "cancelled", "redeemed")
_BESIDE = "SELECT bytes FROM leaf WHERE session_id = ? AND type IN ({}) AND (type NOT IN ({}) OR {}) ORDER BY place"
_OF_ORG = "SELECT 1 FROM session WHERE session_id = ? AND org_id = ?"
_BUNDLE = "SELECT bundle FROM policy_version WHERE org_id = ? AND pipeline_uuid = ? LIMIT 1"
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
    were replaced, `withheld_by` what kept all of it back. `sources` says for each of `rules`
    where it is written, `break_glass` which level of override let it run.
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
    sources: tuple[str, ...] = ()
    blocked_by: str = ""
    break_glass: str = ""
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
    """A session with what happened in it, `children` nested; if there is `more`, it lies beyond `last_seq`."""

    session: SessionLine
    agent_uuid: str
    pipeline_uuid: str
    audit_url: str
    tier: str
    opened_seq: int
    metadata: dict[str, Any]
    calls: tuple[CallLine, ...]
    children: tuple[Timeline, ...]
    last_seq: int = -1
    more: bool = False

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
    held_back = read.dialect.decided("needs_approval")
    counts = {
        name: (decided, decided - ended - held - unsettled[name], unsettled[name], held)
        for name, decided, ended, held in read.query(_COUNTS.format(held_back, _marks(ids)), ids)
    }
    agents = sorted({row.agent_uuid for row in rows})
    names: dict[str, str] = dict(read.query(_NAMES.format(_marks(agents)), agents))
    return [_line(row, names.get(row.agent_uuid, ""), counts.get(row.session_id, (0, 0, 0, 0))) for row in rows]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _line(row: SessionRow, agent: str, counts: tuple[int, ...]) -> SessionLine:
    fields = {name: getattr(row, name) for name in SessionLine.__struct_fields__ if hasattr(row, name)}
    return SessionLine(**fields, agent=agent, calls=counts[0], refused=counts[1], unsettled=counts[2], held=counts[3])


def timeline(
    read: Reader, session_id: str, *, org_id: str = DEFAULT_ORG, after: int = -1, limit: int | None = None
) -> Timeline | None:
    """Return what happened in a session of that organisation, or None if there is no such session.

    Args:
        read: what can be asked of the store.
        session_id: which session.
        org_id: whose it must be.
        after: begin beyond this place in the log: `Timeline.last_seq` of the part before.
        limit: the most calls and child sessions to return, and as many again of each generation inside them; None
            for all.
    """
    row = read.session(session_id)
    if row is None or read.row(_OF_ORG, (session_id, org_id)) is None:
        return None
    return _Telling(read, org_id).tell(row, after, limit, 0)


class _Telling:
    """Reads sessions of one organisation; what rules say is read once for all of them."""

    def __init__(self, read: Reader, org_id: str) -> None:
        self._read = read
        self._org_id = org_id
        self._rules: dict[str, dict[str, Rule]] = {}

    def tell(self, row: SessionRow, after: int, limit: int | None, depth: int) -> Timeline:
        calls, inner, more = self._part(row.session_id, after, limit if depth < _DEEPEST else 0)
        opened = self._events(row.session_id, "session.opened", limit=1)
        contents = self._contents(row.session_id, [event.seq for event in (*opened, *calls)], limit)
        # No generation shows more than the outermost does.
        each = None if limit is None else limit // max(len(inner), 1)
        children = [self.tell(child, -1, each, depth + 1) for name, _ in inner if (child := self._read.session(name))]
        said = contents.get(opened[0].seq, {}) if opened else {}
        return Timeline(
            session=session_lines(self._read, [row])[0],
            agent_uuid=row.agent_uuid,
            pipeline_uuid=row.pipeline_uuid,
            audit_url=opened[0].audit_url if opened else "",
            tier=row.tier,
            opened_seq=row.opened_seq or 0,
            metadata=said.get("metadata") or {},
            calls=self._lines(row.session_id, calls, contents, limit),
            children=tuple(children),
            last_seq=max((seq for seq in (*(call.seq for call in calls), *(seq for _, seq in inner))), default=after),
            more=more,
        )

    def _part(
        self, session_id: str, after: int, limit: int | None
    ) -> tuple[list[AuditEvent], list[tuple[str, int]], bool]:
        """Return the next calls and child sessions, and whether there are more beyond them."""
        calls = self._events(session_id, "call.decided", after=after, limit=None if limit is None else limit + 1)
        inner = [
            (name, seq or 0)
            for name, seq in self._read.query(_CHILDREN, (session_id, self._org_id))
            if (seq or 0) > after
        ]
        if limit is None:
            return calls, inner, False
        places = sorted([*(call.seq for call in calls), *(seq for _, seq in inner)])
        if len(places) <= limit:
            return calls, inner, False
        last = places[limit - 1] if limit else -1
        return [call for call in calls if call.seq <= last], [each for each in inner if each[1] <= last], True

    def _events(self, session_id: str, kind: str, *, after: int = -1, limit: int | None = None) -> list[AuditEvent]:
        found: list[AuditEvent] = []
        asked = {"org_id": self._org_id, "session_id": session_id, "type": kind}
        while limit is None or len(found) < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - len(found))
            page = self._read.events(**asked, after=found[-1].seq if found else after, limit=size)
            found += page
            if len(page) < size:
                break
        return found

    def _contents(self, session_id: str, seqs: list[int], limit: int | None) -> dict[int, dict[str, Any]]:
        """Return stored contents by their place in the log; what was erased is not among them."""
        if limit is None:
            rows = self._read.query(_SAID.format(""), (session_id,))
        else:
            rows = self._read.query(_SAID.format(f" AND seq IN ({_marks(seqs)})"), (session_id, *seqs)) if seqs else []
        return _decoded(rows)

    def _lines(
        self, session_id: str, calls: list[AuditEvent], contents: dict[int, dict[str, Any]], limit: int | None
    ) -> tuple[CallLine, ...]:
        if not calls:
            return ()
        tasks = [] if limit is None else [call.task_id for call in calls]
        kinds = [*_ENDINGS, *(f"approval.{step}" for step in _STEPS)]
        ours = f"task_id IN ({_marks(tasks)})" if tasks else "1 = 1"
        sql = _BESIDE.format(_marks(kinds), _marks(_ENDINGS), ours)
        rows = self._read.query(sql, (session_id, *kinds, *_ENDINGS, *tasks))
        beside = [msgspec.json.decode(row[0], type=AuditEvent) for row in rows]
        endings = {event.task_id: event for event in beside if event.type == "call.ended"}
        levels = {e.task_id: e.details.get("level", "") for e in beside if e.type == "break_glass.used"}
        voted = [event.seq for event in beside if event.type == "approval.voted"]
        approvals = _approvals(beside, contents if limit is None else self._contents(session_id, voted, limit))
        lines: list[CallLine] = []
        for event in calls:
            # A call that waited was decided twice: only the yes can have an ending.
            ending = endings.get(event.task_id) if event.outcome == "allow" else None
            line = _call(event, ending, contents.get(event.seq, {}), approvals.get(event.approval_id))
            level = levels.get(event.task_id, "") if event.would_be else ""
            lines.append(msgspec.structs.replace(line, sources=self._sources(event), break_glass=level))
        return tuple(lines)

    def _sources(self, event: AuditEvent) -> tuple[str, ...]:
        """Return where each rule that matched is written, "" where the policy of then does not say."""
        if not event.rules:
            return ()
        if event.pipeline_uuid not in self._rules:
            row = self._read.row(_BUNDLE, (self._org_id, event.pipeline_uuid))
            rules = from_bundle(row[0]).rules if row is not None else ()
            self._rules[event.pipeline_uuid] = {rule.id: rule for rule in rules}
        known = self._rules[event.pipeline_uuid]
        return tuple(known[name].source if name in known else "" for name in event.rules)


def _decoded(rows: list[tuple[Any, ...]]) -> dict[int, dict[str, Any]]:
    said = ((seq, msgspec.json.decode(body)) for seq, body in rows)
    return {seq: value for seq, value in said if isinstance(value, dict)}


_STATES = {f"approval.{state}": state for state in ("cancelled", "denied", "expired", "redeemed")} | {
    "approval.granted": "approved"
}


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
