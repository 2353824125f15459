"""Chat turns as they travel to a remote plane and back, in OpenAI's shapes; free of I/O."""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.engine.openai_shapes import Body, check_parameters, chunk_of, completion_of
from tappass.engine.sse import EventReader, EventTooLargeError
from tappass.errors import TapPassConnectionError
from tappass.plane.exchange import Asking, Reply, refused, unreadable
from tappass.plane.refused import decision_in, readable
from tappass.wire.chat import ChatChunk, ChatRequest, ChatResponse, ToolCall, Usage
from tappass.wire.codec import encode
from tappass.wire.correlation import Correlation
from tappass.wire.findings import Redaction
from tappass.wire.refusals import BreakGlass
from tappass.wire.service import OPTIONS, RAISE_ON_REDACTION, RESPECT_BREAKGLASS, RESUME, SESSION, TASK

# Longer than a server waits for a model.
READ_S = 600.0
_PATH = "/v1/chat/completions"


def turn(request: ChatRequest, *, stream: bool) -> Asking:
    """Ask for one turn. It is asked once: a second time, the model would answer and be paid again.

    Raises:
        TapPassConfigError: a parameter sets what has its own name, or asks for what is not governed.
    """
    check_parameters(request.parameters)
    fields: dict[str, Any] = {"model": request.model, "messages": request.messages, **request.parameters}
    if request.tools:
        fields["tools"] = request.tools
    if request.metadata:
        fields["metadata"] = request.metadata
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    # On the wire each names what is wanted as an error: an override is one unless the caller goes on under it.
    said = {
        RESPECT_BREAKGLASS: not request.respect_breakglass,
        RAISE_ON_REDACTION: request.raise_on_redaction,
    }
    headers = {
        SESSION: request.session_id,
        TASK: request.task_id,
        OPTIONS: ", ".join(name for name, wanted in said.items() if wanted),
        RESUME: request.resume_token,
        "traceparent": request.traceparent,
    }
    return Asking(
        method="POST",
        path=_PATH,
        body=encode(fields),
        headers=tuple((name, value) for name, value in headers.items() if value),
        idempotent=False,
        consequence="whether the model was asked is not known here; see the session's record",
        read_s=READ_S,
    )


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the plane adds to an answer."""

    session_id: str = ""
    task_id: str = ""
    agent_uuid: str = ""
    pipeline_uuid: str = ""
    audit_url: str = ""
    redactions: tuple[Redaction, ...] = ()
    break_glass: BreakGlass | None = None


class _Governed(Body, frozen=True, kw_only=True):
    tappass: _Told | None = None
    session_id: str = ""
    task_id: str = ""
    agent_uuid: str = ""
    pipeline_uuid: str = ""
    audit_url: str = ""


_governed = msgspec.json.Decoder(_Governed)


def response(reply: Reply, asking: Asking, request: ChatRequest, name: str) -> ChatResponse:
    """Return the response in a reply.

    Raises:
        GovernanceDecision: the turn was refused, or its answer may not be seen.
        TapPassConnectionError: there is none, or it is in no shape that this version knows.
    """
    if not 200 <= reply.status < 300:
        raise refused(reply, asking, name)
    body = _read(reply.body, asking, name)
    completion, told = completion_of(body, request.model), body.tappass
    # Without the plane's word it may be anybody's answer, that nobody looked into.
    if completion is None or told is None or told.session_id != request.session_id:
        raise unreadable(asking, name)
    calls = (
        ToolCall(id=call.id, name=call.name, arguments=call.arguments, index=index)
        for index, call in enumerate(completion.tool_calls)
    )
    return ChatResponse(
        content=completion.content,
        model=readable(completion.model),
        **msgspec.structs.asdict(Correlation.of(told)),
        usage=completion.usage or Usage(),
        tool_calls=tuple(calls),
        redactions=told.redactions,
        finish_reason=readable(completion.finish_reason),
        break_glass=told.break_glass,
    )


class ChunkReading:
    """Reads a streamed answer from bytes as they arrive; `done` once the plane has said its last."""

    def __init__(self, asking: Asking, request: ChatRequest, name: str) -> None:
        self._asking = asking
        self._request = request
        self._name = name
        self._events = EventReader()
        self._ids: dict[str, str] = {}
        self._break_glass: BreakGlass | None = None
        self.done = False

    def feed(self, piece: bytes) -> list[ChatChunk]:
        """Take the next bytes; return the chunks that they complete.

        Raises:
            GovernanceDecision: the rest of the answer may not be seen.
            TapPassConnectionError: the plane reports an error, or what it says is in no known shape.
        """
        try:
            return self._chunks(self._events.feed(piece))
        except EventTooLargeError:
            raise unreadable(self._asking, self._name) from None

    def finish(self) -> list[ChatChunk]:
        """Return the last chunk.

        Raises:
            TapPassConnectionError: the answer was cut off.
        """
        chunks = self._chunks(self._events.finish())
        if not self.done:
            raise TapPassConnectionError(
                f"{self._name} ended its stream before the answer was complete; try again, and see that it still runs"
            )
        return chunks

    def _chunks(self, events: list[bytes]) -> list[ChatChunk]:
        chunks = []
        for event in events:
            if self.done or event.strip() == b"[DONE]":
                self.done = True
                break
            if (decision := decision_in(event)) is not None:
                decision.ran = decision.ran or bool(self._ids)
                raise decision
            chunks.append(self._chunk(_read(event, self._asking, self._name)))
        return [chunk for chunk in chunks if chunk is not None]

    def _chunk(self, body: _Governed) -> ChatChunk | None:
        if body.error is not None:
            raise _failed(body.error, self._name)
        told = body.tappass or _Told()
        for name in Correlation.__struct_fields__:
            if said := getattr(body, name) or getattr(told, name):
                self._ids[name] = said
        self._break_glass = told.break_glass or self._break_glass
        if self._ids.get("session_id") != self._request.session_id:
            raise unreadable(self._asking, self._name)
        chunk = chunk_of(body)
        if not (chunk.content or chunk.tool_calls or chunk.finish_reason or chunk.usage):
            return None
        deltas = (ToolCall(id=d.id, name=d.name, arguments=d.arguments, index=d.index) for d in chunk.tool_calls)
        return ChatChunk(
            content=chunk.content,
            model=readable(chunk.model) or self._request.model,
            tool_calls=tuple(deltas),
            finish_reason=readable(chunk.finish_reason),
            usage=chunk.usage,
            break_glass=self._break_glass,
            **self._ids,
        )


def _read(data: bytes, asking: Asking, name: str) -> _Governed:
    try:
        return _governed.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise unreadable(asking, name) from None


def _failed(error: object, name: str) -> TapPassConnectionError:
    said = error.get("message") if isinstance(error, dict) else error
    told = readable(said) if isinstance(said, str) else ""
    return TapPassConnectionError(told or f"{name} reported an error in its answer; try again")
