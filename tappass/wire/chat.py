"""Chat: the request, the response and its chunks, in OpenAI's shapes plus our correlation."""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.wire.findings import Redaction
from tappass.wire.refusals import BreakGlass


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens as the model's server counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call that the model asks for; `arguments` is JSON text, as the model wrote it.

    In a chunk it is a piece of the call at `index`: `id` and `name` come with the first, `arguments` bit by bit.
    """

    id: str = ""
    name: str = ""
    arguments: str = ""
    index: int = 0


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One turn. `messages` and `tools` are OpenAI's; `parameters` are further request fields (`temperature`, …)."""

    model: str
    messages: tuple[dict[str, Any], ...]
    session_id: str
    task_id: str
    tools: tuple[dict[str, Any], ...] = ()
    metadata: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    respect_breakglass: bool = False
    raise_on_redaction: bool = False
    resume_token: str = ""
    on_approval: str = ""
    approval_timeout_s: float | None = None
    traceparent: str = ""


class ChatResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One answer; `str()` is its text. `model` names what really answered."""

    content: str
    model: str
    session_id: str
    task_id: str
    agent_uuid: str
    pipeline_uuid: str
    audit_url: str
    usage: Usage = Usage()
    tool_calls: tuple[ToolCall, ...] = ()
    redactions: tuple[Redaction, ...] = ()
    finish_reason: str = ""
    break_glass: BreakGlass | None = None

    def __str__(self) -> str:
        return self.content


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of a streamed answer; `str()` is its text. `tool_calls` hold deltas of their arguments."""

    content: str = ""
    model: str = ""
    session_id: str = ""
    task_id: str = ""
    agent_uuid: str = ""
    pipeline_uuid: str = ""
    audit_url: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""
    usage: Usage | None = None
    break_glass: BreakGlass | None = None

    def __str__(self) -> str:
        return self.content


def prompt_text(messages: tuple[dict[str, Any], ...]) -> str:
    """Return the text of all messages, one per line."""
    return "\n".join(text for message in messages for text in _texts(message.get("content")))


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list | tuple) else []
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
