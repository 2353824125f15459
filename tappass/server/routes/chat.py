"""Chat completions and the models that serve them, in OpenAI's shapes: the gateway behind HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, Schema
from litestar.params import HeaderParameter

from tappass.engine.credentials import AGENT, Principal
from tappass.engine.turns import Turn
from tappass.errors import TapPassConfigError, TapPassConnectionError, TapPassError
from tappass.plane.embedded import EmbeddedPlane
from tappass.server import logs, openai_wire, problems
from tappass.server.event_stream import MEDIA_TYPE, EventStream
from tappass.server.openai_wire import ChatBody, ChunkWriter, Completion, Model, Models
from tappass.server.placing import CorrelationHeader, placed, placed_by
from tappass.server.problems import Problem
from tappass.server.working import work
from tappass.wire.chat import ChatChunk, ChatRequest
from tappass.wire.ids import UUID_IDS
from tappass.wire.service import OPTIONS, RESUME, SESSION, TASK

SessionHeader = Annotated[str, HeaderParameter(name=SESSION, max_length=200, description="The session it belongs to.")]
TaskHeader = Annotated[str, HeaderParameter(name=TASK, max_length=200, description="The caller's own id of the call.")]
ResumeHeader = Annotated[str, HeaderParameter(name=RESUME, max_length=400, description="Redeems an approval.")]
OptionsHeader = Annotated[
    str,
    HeaderParameter(name=OPTIONS, description="Wanted as errors: `respect_breakglass`, `raise_on_redaction`."),
]


@dataclass
class _Streamed(Operation):
    """Says that an answer may also come as events."""

    def __post_init__(self) -> None:
        answer: Any = (self.responses or {})["200"]
        data = Schema(type=OpenAPIType.STRING, description="A chunk in JSON, or `[DONE]`.")
        event = Schema(type=OpenAPIType.OBJECT, properties={"data": data}, required=["data"])
        answer.content[MEDIA_TYPE] = OpenAPIMediaType(schema=event)


@post(
    "/v1/chat/completions",
    status_code=200,
    opt={"scope": AGENT},
    responses={200: ResponseSpec(Completion, generate_examples=False), **problems.responses(404, 428, 502)},
    operation_class=_Streamed,
    tags=["chat"],
)
async def complete(
    data: ChatBody,
    body: bytes,
    principal: Principal,
    plane: EmbeddedPlane,
    request: Request[Any, Any, Any],
    correlation: CorrelationHeader = "",
    session: SessionHeader = "",
    task: TaskHeader = "",
    resume: ResumeHeader = "",
    options: OptionsHeader = "",
) -> Response[Any]:
    """Take one governed chat turn, whole or streamed as server-sent events."""
    engine = plane.engine
    if correlation:
        session_id = await work(placed_by, engine, principal, correlation)
    else:
        session_id = await work(placed, engine, principal, session)
    asked = openai_wire.request_of(
        data,
        msgspec.json.decode(body),
        session_id=session_id,
        task_id=task or UUID_IDS.new("tsk"),
        options=frozenset(option.strip() for option in options.split(",")),
        resume_token=resume,
    )
    logs.note(session_id=asked.session_id, task_id=asked.task_id)
    turn = Asked(plane, asked, wants_usage=data.wants_usage)
    return await (turn.streamed() if data.stream else turn.whole())


class Asked:
    """One chat turn as HTTP asks for it."""

    def __init__(self, plane: EmbeddedPlane, request: ChatRequest, *, wants_usage: bool) -> None:
        self._plane, self._request = plane, request
        self._wants_usage = wants_usage
        self._began_ns = time.perf_counter_ns()
        self._created = int(time.time())
        self._turn: Turn | None = None

    async def whole(self) -> Response[Any]:
        """Return the answer in one piece."""
        try:
            answer = await self._plane.gateway.achat(self._request, self._note)
        except TapPassError as error:
            raise self._told(error) from error
        return Response(openai_wire.completion_of(answer, self._governed(), self._created))

    async def streamed(self) -> Response[Any]:
        """Return the answer as events; what is refused before its first piece is an error like any other."""
        chunks = self._plane.gateway.astream(self._request, self._note)
        try:
            first = await anext(chunks, None)
        except TapPassError as error:
            raise self._told(error) from error
        return EventStream(self._events(chunks, first))

    async def _events(
        self, chunks: AsyncGenerator[ChatChunk, None], first: ChatChunk | None
    ) -> AsyncGenerator[bytes, None]:
        writer = ChunkWriter(wants_usage=self._wants_usage, created=self._created)
        try:
            async with aclosing(chunks):
                if first is not None:
                    yield writer.write(first, self._governed())
                async for chunk in chunks:
                    yield writer.write(chunk, self._governed())
        except TapPassError as error:
            # No `[DONE]` after it: what was sent is not the whole answer.
            yield openai_wire.event(problems.body_of(self._told(error)))
            return
        yield writer.finish(self._governed())

    def _note(self, turn: Turn) -> None:
        self._turn = turn

    def _governed(self) -> openai_wire.Governed:
        assert self._turn is not None, "noted before it begins"
        return openai_wire.governed(self._turn, self._began_ns)

    def _told(self, error: TapPassError) -> Exception:
        """Return an error as HTTP tells it: what an upstream did is not the plane's fault."""
        if self._turn is None or not self._turn.ran:
            return error
        if isinstance(error, TapPassConnectionError):
            return Problem(502, str(error), code="upstream")
        if isinstance(error, TapPassConfigError):
            return Problem(404, str(error), code="model_not_found", param="model")
        return error


@get("/v1/models", opt={"scope": AGENT}, tags=["chat"])
async def list_models(plane: EmbeddedPlane) -> Models:
    """List what the settings send to an upstream; a name with a `*` stands for every model that matches it."""
    pipeline = await work(plane.pipelines.current)
    upstreams = pipeline.settings.upstreams
    return Models(data=tuple(Model(id=each.match, owned_by=_host(each.base_url)) for each in upstreams))


def _host(base_url: str) -> str:
    return base_url.partition("://")[2].partition("/")[0].rpartition("@")[2] or "local"


ROUTES = [complete, list_models]
