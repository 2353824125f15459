"""A chat turn's arguments by name, as policy sees them and as they are sent."""

from __future__ import annotations

from typing import Any

import msgspec

from tappass.wire.chat import ChatRequest, prompt_text


def arguments_of(request: ChatRequest) -> dict[str, Any]:
    """Return a turn's arguments as policy sees them; `prompt` is the text of all messages, one per line."""
    return {
        "model": request.model,
        "prompt": prompt_text(request.messages),
        "messages": list(request.messages),
        "tools": list(request.tools),
        "metadata": request.metadata,
        "parameters": request.parameters,
    }


def printable(text: str) -> str:
    """Return a short text that only an upstream vouches for, fit for a record and a log line."""
    return "".join(letter for letter in text[:200] if letter.isprintable())


def with_arguments(asked: ChatRequest, changed: dict[str, Any]) -> ChatRequest:
    """Return the request with redacted arguments; `prompt` is derived from `messages` and not sent."""
    fields = {name: value for name, value in changed.items() if name != "prompt"}
    for name in ("messages", "tools"):
        if name in fields:
            fields[name] = tuple(fields[name])
    return msgspec.structs.replace(asked, **fields)
