"""Sessions: opened, looked at, closed, and reopened for a call that people have decided."""

from __future__ import annotations

import msgspec
from litestar import get, patch, post

from tappass.engine.credentials import AGENT, Principal
from tappass.plane.embedded import EmbeddedPlane
from tappass.server.placing import owned
from tappass.server.problems import responses
from tappass.server.working import work
from tappass.wire.service import Close, Resumption
from tappass.wire.sessions import Opening, SessionRecord


class SessionView(SessionRecord, frozen=True, kw_only=True):
    """A session as its agent sees it, with the five ids; `task_id` is empty: it names no call.

    `status` is open, completed, failed or suspended. Times are RFC 3339, UTC; `closed_at` is empty while it is open.
    `open_calls` are those that were let run and have no ending.
    """

    task_id: str
    kind: str
    status: str
    opened_at: str
    closed_at: str
    open_calls: int


@post("/sessions", status_code=201, opt={"scope": AGENT}, tags=["sessions"])
async def open_session(data: Opening, principal: Principal, plane: EmbeddedPlane) -> SessionView:
    """Open a session; a proposed id that is this key's own already is answered as it is, opened again if need be."""

    def opened() -> SessionView:
        return view(plane, plane.engine.open(data, agent_uuid=principal.agent_uuid))

    return await work(opened)


@get("/sessions/{session_id:str}", opt={"scope": AGENT}, tags=["sessions"])
async def show_session(session_id: str, principal: Principal, plane: EmbeddedPlane) -> SessionView:
    """Show one of this key's own sessions, open or closed."""
    return await work(_shown, plane, principal, session_id)


@patch("/sessions/{session_id:str}", opt={"scope": AGENT}, tags=["sessions"])
async def close_session(session_id: str, data: Close, principal: Principal, plane: EmbeddedPlane) -> SessionView:
    """Close a session; one that is closed already stays as it is."""

    def closed() -> SessionView:
        owned(plane.engine, principal, session_id)
        plane.engine.close(session_id, data.status, data.openings)
        return _shown(plane, principal, session_id)

    return await work(closed)


@post("/sessions/resume", status_code=200, opt={"scope": AGENT}, responses=responses(404), tags=["sessions"])
async def resume_session(data: Resumption, principal: Principal, plane: EmbeddedPlane) -> SessionView:
    """Open again the session whose call an approval holds."""

    def resumed() -> SessionView:
        session_id = plane.engine.voting.session_of(data.resume_token)
        owned(plane.engine, principal, session_id)
        return view(plane, plane.engine.sessions.reopen(session_id).record)

    return await work(resumed)


def _shown(plane: EmbeddedPlane, principal: Principal, session_id: str) -> SessionView:
    return view(plane, owned(plane.engine, principal, session_id).record)


def view(plane: EmbeddedPlane, record: SessionRecord) -> SessionView:
    """Return a session as it is in the database."""
    row = plane.engine.store.read.session(record.session_id)
    assert row is not None, "sessions are never deleted"
    return SessionView(
        task_id="",
        kind=row.kind,
        status=row.status,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        open_calls=row.open_calls,
        **msgspec.structs.asdict(record),
    )


ROUTES = [close_session, open_session, resume_session, show_session]
