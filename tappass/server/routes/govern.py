"""`POST /v1/govern` and its ending: may this call run, and what came of it."""

from __future__ import annotations

import msgspec
from litestar import post

from tappass.engine.credentials import AGENT, Principal
from tappass.plane.embedded import EmbeddedPlane
from tappass.server import deciding
from tappass.server.placing import CorrelationHeader
from tappass.server.problems import responses
from tappass.server.working import work
from tappass.wire.endings import Ending, Settlement
from tappass.wire.govern import GovernAnswer, GovernRequest


@post("/v1/govern", status_code=200, opt={"scope": AGENT}, responses=responses(404), tags=["govern"])
async def decide(
    data: GovernRequest,
    principal: Principal,
    plane: EmbeddedPlane,
    correlation: CorrelationHeader = "",
) -> GovernAnswer:
    """Decide whether a call may run; the answer is on record before it is given."""
    return deciding.told(await work(deciding.answer, plane, principal, data, correlation))


@post("/v1/govern/{behavior_id:str}/ending", status_code=200, opt={"scope": AGENT}, tags=["govern"])
async def end(behavior_id: str, data: Ending, principal: Principal, plane: EmbeddedPlane) -> Settlement:
    """Close a call's record; where its result is under a scan, say what must be replaced in it."""
    if data.task_id != behavior_id:
        raise msgspec.ValidationError("Expected the id that the path names - at `$.task_id`")
    return await work(deciding.settled, plane, principal, data)


ROUTES = [decide, end]
