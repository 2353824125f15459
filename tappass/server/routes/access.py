"""`POST /access/v1/evaluation`: the same decision in the words of OpenID AuthZEN 1.0, section 6."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response, post
from litestar.params import HeaderParameter

from tappass.engine.credentials import AGENT, Principal
from tappass.plane.embedded import EmbeddedPlane
from tappass.server import deciding
from tappass.server.problems import Problem, responses
from tappass.server.working import work
from tappass.wire.decisions import ALLOW
from tappass.wire.endings import ABANDONED, Ending
from tappass.wire.govern import LLM_CALL, TOOL_CALL, GovernAnswer, GovernRequest

TOOL, MODEL = "tool", "model"

# AuthZEN 1.0, section 10.1.3: answered as it was sent.
RequestId = Annotated[str, HeaderParameter(name="X-Request-ID", pattern="^[A-Za-z0-9_.:-]{0,128}$")]


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Who acts: `type` is `agent`, `id` the name or the uuid of the key's own agent."""

    type: str
    id: str
    properties: dict[str, Any] = {}


class Doing(msgspec.Struct, frozen=True, kw_only=True):
    """What is done; `properties` are the arguments by name."""

    name: str
    properties: dict[str, Any] = {}


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """What it is done to: `type` is `tool` or `model`, `id` its name; `properties.server` an MCP server."""

    type: str
    id: str
    properties: dict[str, Any] = {}


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """May this subject do this to that resource? `context.session_id` names the session that it belongs to."""

    subject: Subject
    action: Doing
    resource: Resource
    context: dict[str, Any] = {}


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """The answer; `context` is the whole of it as `POST /v1/govern` gives it."""

    decision: bool
    context: GovernAnswer


@post("/access/v1/evaluation", status_code=200, opt={"scope": AGENT}, responses=responses(404), tags=["govern"])
async def evaluate(
    data: Evaluation, principal: Principal, plane: EmbeddedPlane, request_id: RequestId = ""
) -> Response[Evaluated]:
    """Decide, on record, for an enforcement point that tells no ending: a yes is recorded as abandoned at once."""
    answer = await work(_evaluated, plane, principal, data)
    deciding.told(answer.context)
    return Response(answer, headers={"X-Request-ID": request_id} if request_id else {})


def _evaluated(plane: EmbeddedPlane, principal: Principal, asked: Evaluation) -> Evaluated:
    if asked.subject.id not in (principal.name, principal.agent_uuid):
        raise Problem(403, "the subject is not the agent whose key was shown", code="other_agent", param="subject.id")
    answer = deciding.answer(plane, principal, _question(asked))
    if answer.outcome == ALLOW:
        ending = Ending(session_id=answer.session_id, task_id=answer.task_id, status=ABANDONED, duration_us=0)
        deciding.settled(plane, principal, ending)
    return Evaluated(decision=answer.outcome == ALLOW, context=answer)


def _question(asked: Evaluation) -> GovernRequest:
    arguments, resource = asked.action.properties, asked.resource
    if resource.type == TOOL:
        server = resource.properties.get("server", "")
        kind, payload = TOOL_CALL, {"tool": resource.id, "args": arguments, "server": server}
    elif resource.type == MODEL:
        kind, payload = LLM_CALL, arguments | {"model": resource.id}
    else:
        raise msgspec.ValidationError(f"Expected `{TOOL}` or `{MODEL}` - at `$.resource.type`")
    session_id = asked.context.get("session_id", "")
    if not isinstance(session_id, str):
        raise msgspec.ValidationError("Expected `str` - at `$.context.session_id`")
    return GovernRequest(type=kind, payload=payload, session_id=session_id)


ROUTES = [evaluate]
