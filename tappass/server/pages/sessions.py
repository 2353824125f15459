"""The page that every `audit_url` leads to: a session's calls in order, its child sessions inside."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get

from tappass.engine import phrases
from tappass.engine.credentials import Principal
from tappass.engine.hopping import hop
from tappass.engine.store.reading import Reader
from tappass.engine.timeline import CallLine, Timeline, timeline
from tappass.server.auth import PAGE
from tappass.server.house import House
from tappass.server.pages.approvals import TONES
from tappass.server.pages.rendering import page
from tappass.server.pages.visiting import AnyRequest, house_of, visitor_of

_PART = 100
_INLINE, _FOLDED, _BEGINNING, _ARGUMENTS = 400, 20_000, 100, 30
_STATUS = {"completed": "good", "failed": "bad", "suspended": "held", "open": "plain"}
_IS_OF = "SELECT 1 FROM session WHERE session_id = ? AND org_id = ? AND (? = '' OR project_id = ?)"


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A stored value for reading; a `long` one is folded away, one that is longer still is `cut`."""

    value: Any
    size: int
    text: str = ""
    beginning: str = ""
    long: bool = False
    cut: bool = False


class CallView(msgspec.Struct, frozen=True, kw_only=True):
    """One call as the page has it; `rules` are pairs of an id and where it is written."""

    call: CallLine
    word: str
    tone: str
    rules: tuple[tuple[str, str], ...]
    arguments: tuple[tuple[str, Value], ...] | None
    left_out: int
    remarks: tuple[tuple[str, str], ...]
    approval_tone: str


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """One session as the page has it."""

    told: Timeline
    counts: str
    tone: str
    entries: tuple[Any, ...]


@get("/pages/sessions/{session_id:str}", opt={"scope": PAGE}, include_in_schema=False)
async def session(request: AnyRequest, session_id: str) -> Response[bytes]:
    """Show what happened in a session."""
    visitor, house = await visitor_of(request), house_of(request)
    after = request.query_params.get("after", "")
    # Places in a log are below 2^40.
    start = int(after) if after.isascii() and after.isdigit() and len(after) < 13 else -1
    found = await hop(lambda principal: _read(house, principal, session_id, start), visitor.principal)
    if found is None:
        heading, text = "No such session", "There is no session of that id that this key may see."
        return page("message.html", status=404, visitor=visitor, heading=heading, text=text, onward="")
    told, parent = found
    metadata = [(name, value_of(each)) for name, each in list(told.metadata.items())[:_ARGUMENTS]]
    shown = view(told)
    return page(
        "session.html", visitor=visitor, told=told, view=shown, metadata=metadata, parent=parent, later=start >= 0
    )


def _read(house: House, principal: Principal, session_id: str, after: int) -> tuple[Timeline, str] | None:
    """Return a session, and what its parent is called."""
    read: Reader = house.plane(principal.org_id, principal.project_id).engine.store.read
    whose = (principal.org_id, principal.project_id, principal.project_id)
    if not session_id.isprintable() or read.row(_IS_OF, (session_id, *whose)) is None:
        return None
    told = timeline(read, session_id, org_id=principal.org_id, after=after, limit=_PART)
    if told is None:
        return None
    above = told.session.parent
    parent = read.session(above) if above and read.row(_IS_OF, (above, *whose)) is not None else None
    return told, (parent.name or parent.kind) if parent is not None else ""


def view(told: Timeline) -> SessionView:
    """Return a session for the page."""
    entries = tuple(call_view(each) if isinstance(each, CallLine) else view(each) for each in told.entries)
    tone = _STATUS.get(told.session.status, "plain")
    return SessionView(told=told, counts=phrases.summary(told.session), tone=tone, entries=entries)


def call_view(call: CallLine) -> CallView:
    """Return a call for the page; what is long is folded, what is very long is cut."""
    word, tone = phrases.outcome(call)
    rules = list(zip(call.rules, call.sources or ("",) * len(call.rules), strict=True))
    if call.blocked_by not in ("", *call.rules):
        rules.append((call.blocked_by, ""))
    given = None if call.arguments is None else list(call.arguments.items())
    lasted = phrases.duration(call.duration_us)  # stands in another place on the page
    remarks = [each for each in (*phrases.before(call), *phrases.after(call)) if each[0] != lasted]
    return CallView(
        call=call,
        word=word,
        tone=tone,
        rules=tuple(rules),
        arguments=None if given is None else tuple((name, value_of(each)) for name, each in given[:_ARGUMENTS]),
        left_out=max(0, len(given or ()) - _ARGUMENTS),
        remarks=tuple(remarks),
        approval_tone=TONES.get(call.approval.state, "plain") if call.approval else "",
    )


def value_of(value: Any) -> Value:
    """Return a stored value for reading."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if len(text) <= _INLINE:
        return Value(value=value, size=len(text))
    cut = len(text) > _FOLDED
    return Value(value=None, size=len(text), text=text[:_FOLDED], beginning=text[:_BEGINNING], long=True, cut=cut)


HANDLERS = [session]
