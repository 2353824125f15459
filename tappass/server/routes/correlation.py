"""`POST /sessions/{id}/stamp`, `POST /sessions/join`: tokens that place calls, and what they open."""

from __future__ import annotations

from litestar import post

from tappass.engine.credentials import AGENT, Principal
from tappass.engine.hopping import hop_to_the_end
from tappass.engine.joining import join as join_by
from tappass.errors import TapPassConfigError
from tappass.plane.embedded import EmbeddedPlane
from tappass.server.placing import presenter_of
from tappass.server.problems import Problem, responses
from tappass.wire.service import Joining, Stamp, Stamping
from tappass.wire.sessions import SessionRecord


@post(
    "/sessions/{session_id:str}/stamp",
    opt={"scope": AGENT},
    status_code=200,
    responses=responses(404),
    summary="Mint a correlation token for one receiver",
    tags=["sessions"],
)
async def stamp(session_id: str, data: Stamping, plane: EmbeddedPlane, principal: Principal) -> Stamp:
    """Return a token for the `tappass-correlation` header; it places the receiver's calls and authenticates nobody."""

    def stamped(asked: Stamping) -> Stamp:
        try:
            plane.engine.own(session_id, principal.agent_uuid)
        except TapPassConfigError:
            raise Problem(404, f"this key has no open session `{session_id}`", code="unknown_session") from None
        return plane.engine.issuer.stamp(session_id, asked.audience, asked.task_id)

    return await hop_to_the_end(stamped, data)


@post(
    "/sessions/join",
    opt={"scope": AGENT},
    status_code=200,
    summary="Open a session beneath the one that a token names",
    tags=["sessions"],
)
async def join(data: Joining, plane: EmbeddedPlane, principal: Principal) -> SessionRecord:
    """Return a session of the key's own, beneath the caller's; closing it never closes the caller's."""
    return await hop_to_the_end(
        lambda asked: join_by(plane.engine, asked.token, asked.audience, presenter_of(principal)), data
    )


ROUTES = [join, stamp]
