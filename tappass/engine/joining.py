"""Entering a session by a token: whoever joins acts under their own name and tier, in the caller's session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tappass.engine.issuer import Presenter
from tappass.wire.sessions import Opening, SessionRecord

if TYPE_CHECKING:
    from tappass.engine.engine import Engine

# Embedded there are no keys: every process on the database is the same user's.
EMBEDDED = Presenter(credential="embedded")

_TIER = "SELECT tier FROM agent WHERE agent_uuid = ? AND org_id = ?"


def join(engine: Engine, token: str, audience: str | tuple[str, ...], presenter: Presenter) -> SessionRecord:
    """Enter the session that a token names; a trusted issuer's is not here, so one is opened beneath its id.

    Raises:
        CorrelationRefused: the token does not hold.
        TapPassConnectionError: it cannot be recorded.
    """
    claims = engine.issuer.verify(token, audience, presenter)
    if not engine.issuer.is_own(claims):
        return engine.open(Opening(name="joined", kind="joined", parent=claims.sid, agent=presenter.agent))
    record = engine.sessions.find(claims.sid).record
    if presenter.agent_uuid and presenter.agent_uuid != record.agent_uuid:
        row = engine.store.read.row(_TIER, (presenter.agent_uuid, engine.leaves.org_id))
        tier = row[0] if row else record.tier
        record = msgspec.structs.replace(record, agent_uuid=presenter.agent_uuid, agent=presenter.agent, tier=tier)
    return msgspec.structs.replace(record, joined=True)
