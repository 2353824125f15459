"""`POST /agents/register`, `GET /agents/{uuid}`: who acts here, and the key of each, shown once."""

from __future__ import annotations

from litestar import get, post

from tappass.engine.approver import Approver
from tappass.engine.credentials import ADMIN, Principal
from tappass.engine.hopping import hop, hop_to_the_end
from tappass.engine.store.port import Store
from tappass.engine.trust import AgentRow, Agents
from tappass.errors import TapPassConfigError
from tappass.plane.embedded import EmbeddedPlane
from tappass.server.problems import Problem, responses
from tappass.wire.service import AgentInfo, Credential, Registration


@post(
    "/agents/register",
    opt={"scope": ADMIN},
    status_code=200,
    responses=responses(409),
    summary="Register an agent; the answer holds its key, this once",
)
async def register(data: Registration, plane: EmbeddedPlane, principal: Principal) -> Credential:
    """Register an agent in the key's project."""
    return await hop_to_the_end(lambda told: _registered(_agents(plane), principal, told), data, must=False)


@get("/agents/{agent_uuid:str}", opt={"scope": ADMIN}, summary="Look an agent up")
async def look_up(agent_uuid: str, plane: EmbeddedPlane, principal: Principal) -> AgentInfo:
    """Return an agent of the key's organisation."""
    found = await hop(_agents(plane).by_uuid, agent_uuid)
    if found is None:
        raise Problem(404, "there is no such agent in this organisation")
    return AgentInfo(
        agent_uuid=found.agent_uuid,
        agent_id=found.name,
        org_id=principal.org_id,
        framework=found.framework,
        description=found.description,
        active=bool(found.active),
        registered_at=found.registered_at,
        trust_tier=found.tier,
    )


def _agents(plane: EmbeddedPlane) -> Agents:
    store: Store = plane.engine.store
    return Agents(store, plane.engine.leaves)


def _registered(agents: Agents, principal: Principal, told: Registration) -> Credential:
    by = Approver(person_id=principal.person_id, name=principal.name or principal.key_id, key_id=principal.key_id)
    for name, value, longest in (("framework", told.framework, 200), ("description", told.description, 4000)):
        if len(value) > longest:
            raise Problem(422, f"`{name}` has over {longest} characters", code="malformed", param=name)
    try:
        made: AgentRow = agents.add(by, told.agent_id, framework=told.framework, description=told.description)
    except TapPassConfigError as error:
        taken = "registered already" in str(error)
        status, code = (409, "conflict") if taken else (422, "malformed")
        raise Problem(status, str(error), code=code, param="agent_id") from error
    key_id, key = agents.new_key(by, made.name, "registered")
    return Credential(
        agent_uuid=made.agent_uuid,
        agent_id=made.name,
        api_key=key,
        org_id=principal.org_id,
        framework=made.framework,
        description=made.description,
        registered_at=made.registered_at,
        trust_tier=made.tier,
        key_id=key_id,
    )


ROUTES = [look_up, register]
