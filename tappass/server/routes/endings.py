"""What an outbox sends: endings of calls and closes of sessions, in order, each counted once."""

from __future__ import annotations

from litestar import post

from tappass.engine.credentials import AGENT, Principal
from tappass.plane.embedded import EmbeddedPlane
from tappass.server.working import work
from tappass.wire.service import Entry, Receipt


@post("/v1/endings", status_code=202, opt={"scope": AGENT}, tags=["govern"])
async def take_endings(data: list[Entry], principal: Principal, plane: EmbeddedPlane) -> Receipt:
    """Record how calls ended and sessions closed; the answer is given once that is durable.

    What is unknown here, is another key's or was recorded before counts as a duplicate: sending again changes nothing.
    """
    return await work(plane.engine.settle_all, data, agent_uuid=principal.agent_uuid)


ROUTES = [take_endings]
