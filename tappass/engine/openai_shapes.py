"""OpenAI's chat completion shapes, as far as we pass them on, and the body of a request.

Shapes from the OpenAI API reference, "Chat completions" (`/v1/chat/completions`). A field that is not named here is
dropped: what nobody inspects is not handed on.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.errors import TapPassConfigError
from tappass.wire.chat import ChatRequest, ToolCall, Usage
from tappass.wire.codec import encode

RESERVED = frozenset({"messages", "metadata", "model", "stream", "stream_options", "tools"})
"""Request fields that `parameters` may not set, because they were decided upon under their own names."""

UNGOVERNED = frozenset(
    {"audio", "function_call", "functions", "modalities", "prediction", "store", "web_search_options"}
)
"""Request fields refused because they change the answer's shape or carry content past the rules."""


class FunctionPart(msgspec.Struct, frozen=True, kw_only=True):
    """A function's name and its arguments, or a further piece of both."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class ToolCallPart(msgspec.Struct, frozen=True, kw_only=True):
    """One tool call, or a further piece of the one at `index`."""

    index: int | None = None
    id: str | None = None
    function: FunctionPart = FunctionPart()


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A message, or a further piece of one (`delta`)."""

    content: str | list[dict[str, Any]] | None = None
    tool_calls: tuple[ToolCallPart, ...] | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, or a piece of it."""

    index: int = 0
    message: Part = Part()
    delta: Part | None = None
    finish_reason: str | None = None


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """Usage as upstreams send it, nulls included."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """A whole completion, or one event of a streamed one."""

    choices: tuple[Choice, ...] | None = None
    model: str | None = None
    usage: TokenCount | None = None
    error: Any = None


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of the tool call at `index`; `id` and `name` come with its first piece."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of an upstream's stream, for the one choice that we ask for; not yet inspected."""

    content: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str = ""
    model: str = ""
    usage: Usage | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """One whole answer of an upstream; not yet inspected."""

    content: str
    model: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""
    usage: Usage | None = None


def request_body(request: ChatRequest, *, stream: bool, ask_usage: bool = True) -> bytes:
    """Return the JSON body for one request.

    Raises:
        TapPassConfigError: a parameter sets what has its own name, or asks for what is not governed.
    """
    check_parameters(request.parameters)
    fields: dict[str, Any] = {"model": request.model, "messages": request.messages, **request.parameters}
    if request.tools:
        fields["tools"] = request.tools
    if stream:
        fields["stream"] = True
        if ask_usage:
            fields["stream_options"] = {"include_usage": True}
    return encode(fields)


def check_parameters(parameters: dict[str, Any]) -> None:
    """Refuse the parameters that would go around what was decided.

    Raises:
        TapPassConfigError: naming the parameter.
    """
    for name in parameters:
        if name in RESERVED:
            raise TapPassConfigError(f"the chat parameter `{name}` has its own place in a request; pass it there")
        if name in UNGOVERNED:
            raise TapPassConfigError(f"the chat parameter `{name}` is not governed yet, so it is refused; leave it out")
    if parameters.get("n") not in (None, 1):
        raise TapPassConfigError("the chat parameter `n` asks for several answers; ask for one answer at a time")


def read_body(data: bytes | str) -> Body:
    """Read a completion or one event of a stream.

    Raises:
        msgspec.DecodeError: it is not JSON, or not that shape.
        UnicodeDecodeError: it is not UTF-8.
    """
    return _body.decode(data)


def completion_of(body: Body, requested: str) -> Completion | None:
    """Return the answer in a whole completion, None if it has none."""
    choice = _first(body)
    if choice is None:
        return None
    calls = choice.message.tool_calls or ()
    return Completion(
        content=_text(choice.message.content),
        model=body.model or requested,
        tool_calls=tuple(
            ToolCall(id=call.id or "", name=call.function.name or "", arguments=_arguments(call)) for call in calls
        ),
        finish_reason=choice.finish_reason or "",
        usage=_usage(body.usage),
    )


def chunk_of(body: Body) -> Chunk:
    """Return one event of a stream."""
    choice = _first(body) or Choice()
    delta = choice.delta or choice.message
    return Chunk(
        content=_text(delta.content),
        tool_calls=tuple(_delta(place, call) for place, call in enumerate(delta.tool_calls or ())),
        finish_reason=choice.finish_reason or "",
        model=body.model or "",
        usage=_usage(body.usage),
    )


_body = msgspec.json.Decoder(Body)


def _first(body: Body) -> Choice | None:
    return next((choice for choice in body.choices or () if choice.index == 0), None)


def _delta(place: int, call: ToolCallPart) -> ToolCallDelta:
    index = place if call.index is None else call.index
    return ToolCallDelta(index=index, id=call.id or "", name=call.function.name or "", arguments=_arguments(call))


def _arguments(call: ToolCallPart) -> str:
    arguments = call.function.arguments
    if isinstance(arguments, dict):
        return encode(arguments).decode()
    return arguments or ""


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return content or ""


def _usage(count: TokenCount | None) -> Usage | None:
    if count is None:
        return None
    asked, answered = count.prompt_tokens or 0, count.completion_tokens or 0
    return Usage(prompt_tokens=asked, completion_tokens=answered, total_tokens=count.total_tokens or asked + answered)
