"""Which session a request belongs to: the one it names, if it is its key's own, else the key's implicit one."""

from __future__ import annotations

from typing import Annotated

from litestar.params import HeaderParameter

from tappass.engine.credentials import Principal
from tappass.engine.engine import Engine
from tappass.engine.issuer import Presenter
from tappass.engine.joining import join
from tappass.engine.recalled import Open
from tappass.server.problems import Problem
from tappass.wire.service import CORRELATION
from tappass.wire.sessions import Opening

CorrelationHeader = Annotated[str, HeaderParameter(name=CORRELATION, description="A token that places the call.")]


def placed(engine: Engine, principal: Principal, named: str) -> str:
    """Return the session of a request that names one, "" for the implicit one; an unknown name is opened by it.

    Raises:
        Problem: 404, it is another key's.
    """
    if not named:
        return engine.implicit_session(principal.agent_uuid).session_id
    known = engine.sessions.known(named)
    if known is None:
        return engine.open(Opening(id=named, name=named), agent_uuid=principal.agent_uuid).session_id
    if known.record.agent_uuid != principal.agent_uuid:
        raise _unknown(named)
    return named


def placed_by(engine: Engine, principal: Principal, token: str) -> str:
    """Return the session that a correlation token places a request in: its key's own, or one beneath another's.

    The receiver is this server, by the address it is set to have (`[server] url`: a Host header is whatever the
    presenter writes), or the agent whose key was shown, by its name or its uuid.

    Raises:
        CorrelationRefused: the token does not hold.
    """
    presenter = presenter_of(principal)
    server = engine.pipelines.current().settings.server.url.rstrip("/")
    audiences = (server, f"{server}/", principal.name, principal.agent_uuid)
    claims = engine.issuer.verify(token, audiences, presenter)
    if claims.agent == principal.agent_uuid and engine.issuer.is_own(claims):
        return claims.sid
    return join(engine, token, audiences, presenter).session_id


def presenter_of(principal: Principal) -> Presenter:
    """Return who presents a token."""
    return Presenter(credential=principal.key_id, agent_uuid=principal.agent_uuid, agent=principal.name)


def owned(engine: Engine, principal: Principal, session_id: str) -> Open:
    """Return a session, open or closed, that must be there and be this key's own.

    Raises:
        Problem: 404, the same whether there is none or it is another key's.
    """
    known = engine.sessions.known(session_id)
    if known is None or known.record.agent_uuid != principal.agent_uuid:
        raise _unknown(session_id)
    return known


def _unknown(session_id: str) -> Problem:
    return Problem(404, f"this key has no session `{session_id}`; open one", code="unknown_session")
