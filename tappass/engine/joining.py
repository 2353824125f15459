"""Joining a session by a token: a session of the presenter's own, beneath the caller's."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tappass.engine.issuer import Presenter
from tappass.wire.sessions import ENFORCE, Opening, SessionRecord

if TYPE_CHECKING:
    from tappass.engine.engine import Engine

# Embedded there are no keys: every process on the database is the same user's.
EMBEDDED = Presenter(credential="embedded")


def join(engine: Engine, token: str, audience: str | tuple[str, ...], presenter: Presenter) -> SessionRecord:
    """Open a session beneath the one that a token names; whoever presents tokens of one session again gets the same.

    It is the presenter's in everything: its agent, its tier, its end. The caller's stays as it is.

    Raises:
        CorrelationRefused: the token does not hold.
        TapPassConnectionError: it cannot be recorded.
    """
    claims = engine.issuer.verify(token, audience, presenter)
    known = hashlib.sha256(f"{claims.iss}\0{claims.sid}\0{presenter.credential}".encode()).hexdigest()[:32]
    opening = Opening(
        id=f"ses_{known}",
        name=claims.aud,
        kind="joined",
        parent=claims.sid,
        agent=presenter.agent,
        # What the caller's session relaxes was not granted to whoever it calls.
        mode=ENFORCE,
    )
    return engine.open(opening, presenter.agent_uuid, joined=True)
