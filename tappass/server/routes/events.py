"""`POST /v1/events`: what clients report, recorded as `reported.<event_type>`."""

from __future__ import annotations

from typing import Annotated

from litestar import post
from litestar.params import HeaderParameter

from tappass.engine.credentials import AGENT, Principal
from tappass.plane.embedded import EmbeddedPlane
from tappass.server.working import work
from tappass.wire.service import IDEMPOTENCY_KEY, Receipt, Report

IdempotencyKey = Annotated[
    str,
    HeaderParameter(name=IDEMPOTENCY_KEY, max_length=200, description="The same again under it changes nothing."),
]


@post("/v1/events", status_code=202, opt={"scope": AGENT}, tags=["events"])
async def take_reports(
    data: list[Report], principal: Principal, plane: EmbeddedPlane, idempotency_key: IdempotencyKey = ""
) -> Receipt:
    """Record what a client reports; the answer is given once all of it is durable."""
    return await work(plane.engine.report, data, agent_uuid=principal.agent_uuid, key=idempotency_key)


ROUTES = [take_reports]
