"""Chat completions as clients send and read them: OpenAI's shapes, with our correlation beside them.

Shapes from the OpenAI API reference, "Chat completions" and "Chat completion chunk".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from tappass.engine.openai_shapes import RESERVED
from tappass.wire.chat import ChatChunk, ChatRequest, ChatResponse, ToolCall, Usage
from tappass.wire.correlation import Correlation
from tappass.wire.findings import Redaction
from tappass.wire.refusals import BreakGlass

if TYPE_CHECKING:
    from tappass.engine.turns import Turn

CORRELATED = Correlation.__struct_fields__
DONE = b"data: [DONE]\n\n"


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a streamed answer carries beside its text."""

    include_usage: bool | None = None


class ChatBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/chat/completions`; what is not named here is passed on to the upstream."""

    model: str
    messages: tuple[dict[str, Any], ...]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    metadata: dict[str, str] | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the stream is to end with a chunk that counts tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class Redacted(msgspec.Struct, frozen=True, kw_only=True):
    """One span that was replaced, positions in code points of the original."""

    kind: str
    start: int
    end: int
    replacement: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One rule or detector that had a say in the turn."""

    step: str
    action: str
    detected: bool
    message: str
    duration_ms: float


class Governed(msgspec.Struct, frozen=True, kw_only=True):
    """What governing did to one chat turn: the `tappass` object beside an answer.

    `shadow_mode` says that the session only observes; `degraded` that something was not governed as configured.
    """

    session_id: str
    task_id: str
    agent_uuid: str
    pipeline_uuid: str
    audit_url: str
    blocked: bool
    blocked_by: str
    classification: str
    steps_run: int
    total_duration_ms: float
    steps: tuple[Step, ...]
    shadow_mode: bool
    degraded: bool
    degraded_reason: str
    redactions: tuple[Redacted, ...]
    break_glass: BreakGlass | msgspec.UnsetType = msgspec.UNSET


class CalledFunction(msgspec.Struct, frozen=True, kw_only=True):
    """The function that the model asks for, its arguments as JSON text."""

    name: str
    arguments: str


class CalledTool(msgspec.Struct, frozen=True, kw_only=True):
    """One tool call of an answer."""

    id: str
    function: CalledFunction
    type: str = "function"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The answer itself."""

    role: str
    content: str | None
    refusal: str | None = None
    tool_calls: tuple[CalledTool, ...] | msgspec.UnsetType = msgspec.UNSET


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The one answer that is given."""

    index: int
    message: Message
    finish_reason: str
    logprobs: None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    id: str
    object: str
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: Usage
    session_id: str
    task_id: str
    agent_uuid: str
    pipeline_uuid: str
    audit_url: str
    tappass: Governed


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model that may be asked for; where `id` holds a `*`, every model whose name matches it."""

    id: str
    owned_by: str
    created: int = 0
    object: str = "model"


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """The models that the policy's settings lead to."""

    data: tuple[Model, ...]
    object: str = "list"


def request_of(
    body: ChatBody, sent: dict[str, Any], *, session_id: str, task_id: str, options: frozenset[str], resume_token: str
) -> ChatRequest:
    """Return a request as the gateway takes it; `sent` is the whole body, for the parameters that it does not name."""
    return ChatRequest(
        model=body.model,
        messages=body.messages,
        session_id=session_id,
        task_id=task_id,
        tools=body.tools or (),
        metadata=body.metadata or {},
        parameters={name: value for name, value in sent.items() if name not in RESERVED and value is not None},
        respect_breakglass="respect_breakglass" not in options,
        raise_on_redaction="raise_on_redaction" in options,
        resume_token=resume_token,
    )


def governed(turn: Turn, began_ns: int) -> Governed:
    """Return what governing did to a turn, so far."""
    ids, decision = turn.place.correlation, turn.decision
    took_ms = (time.perf_counter_ns() - began_ns) / 1e6
    steps = [
        Step(step=rule.id, action=rule.effect, detected=True, message=rule.source, duration_ms=0.0)
        for rule in (decision.rules if decision else ())
    ]
    steps += [
        Step(step=kind, action="detect", detected=True, message=f"{kind} found", duration_ms=0.0)
        for kind in sorted({finding.kind for finding in turn.found()})
    ]
    return Governed(
        **msgspec.structs.asdict(ids) | {"task_id": turn.call.task_id},
        blocked=False,
        blocked_by="",
        classification="",
        steps_run=len(steps),
        total_duration_ms=round(took_ms, 3),
        steps=tuple(steps),
        shadow_mode=turn.opened.record.mode == "observe",
        degraded=False,
        degraded_reason="",
        redactions=redacted(turn.redactions()),
        break_glass=(decision.break_glass if decision else None) or msgspec.UNSET,
    )


def redacted(redactions: tuple[Redaction, ...]) -> tuple[Redacted, ...]:
    """Return redactions with exactly the members that clients expect of one."""
    return tuple(Redacted(kind=r.kind, start=r.start, end=r.end, replacement=r.replacement) for r in redactions)


def completion_of(response: ChatResponse, told: Governed, created: int) -> Completion:
    """Return a whole answer in OpenAI's shape."""
    calls = tuple(
        CalledTool(id=call.id, function=CalledFunction(name=call.name, arguments=call.arguments))
        for call in response.tool_calls
    )
    return Completion(
        id=f"chatcmpl-{response.task_id}",
        object="chat.completion",
        created=created,
        model=response.model,
        choices=(
            Choice(
                index=0,
                message=Message(
                    role="assistant",
                    content=None if calls and not response.content else response.content,
                    tool_calls=calls or msgspec.UNSET,
                ),
                finish_reason=response.finish_reason or ("tool_calls" if calls else "stop"),
            ),
        ),
        usage=response.usage,
        tappass=told,
        **{name: getattr(response, name) for name in CORRELATED},
    )


class ChunkWriter:
    """Writes the pieces of one answer as server-sent events.

    The chunk that ends the answer waits for the stream's end, so that it can say all that governing did.
    """

    def __init__(self, *, wants_usage: bool, created: int) -> None:
        self._wants_usage = wants_usage
        self._created = created
        self._begun = False
        self._last: dict[str, Any] | None = None
        self._usage: Usage | None = None

    def write(self, chunk: ChatChunk, told: Governed) -> bytes:
        """Return the event of one piece, empty while it must wait."""
        self._usage = chunk.usage or self._usage
        frame = self._frame(chunk, _delta(chunk, first=not self._begun), chunk.finish_reason or None)
        if chunk.finish_reason:
            held, self._last, self._begun = self._last, frame, True
            return event(held) if held else b""
        if not (chunk.content or chunk.tool_calls):
            return b""
        if not self._begun:
            frame["tappass"] = told
        self._begun = True
        return event(frame)

    def finish(self, told: Governed) -> bytes:
        """Return the events that end the stream."""
        frame = self._last or self._end(told)
        frame["tappass"] = told
        frames = [event(frame)]
        if self._wants_usage:
            frames.append(event(frame | {"choices": [], "usage": self._usage or Usage()}))
        return b"".join(frames) + DONE

    def _frame(self, chunk: ChatChunk, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        frame: dict[str, Any] = {
            "id": f"chatcmpl-{chunk.task_id}",
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": chunk.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}],
        }
        if self._wants_usage:
            frame["usage"] = None
        return frame | {name: getattr(chunk, name) for name in CORRELATED}

    def _end(self, told: Governed) -> dict[str, Any]:
        """Return an end for an answer whose upstream gave none."""
        ids = {name: getattr(told, name) for name in CORRELATED}
        return self._frame(ChatChunk(**ids), {} if self._begun else {"role": "assistant", "content": ""}, "stop")


def event(frame: Any) -> bytes:
    """Return one server-sent event (WHATWG HTML, section 9.2.6); JSON text holds no line breaks."""
    return b"data: " + msgspec.json.encode(frame) + b"\n\n"


def _delta(chunk: ChatChunk, *, first: bool) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant"} if first else {}
    if chunk.content or first:
        delta["content"] = chunk.content
    if chunk.tool_calls:
        delta["tool_calls"] = [_called(call) for call in chunk.tool_calls]
    return delta


def _called(call: ToolCall) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": call.arguments}
    if call.name:
        function["name"] = call.name
    called: dict[str, Any] = {"index": call.index, "function": function}
    return called | ({"id": call.id, "type": "function"} if call.id else {})
