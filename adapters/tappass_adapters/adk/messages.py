"""ADK's model requests as OpenAI's messages, for policy to read, and back where policy redacted them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from tappass.ext import ModelCall, Session

_PARAMETERS = (
    "candidate_count",
    "frequency_penalty",
    "max_output_tokens",
    "presence_penalty",
    "response_mime_type",
    "seed",
    "stop_sequences",
    "temperature",
    "top_k",
    "top_p",
)
_ROLES = {"model": "assistant", "user": "user"}


def call(model: Any, request: Any, told: list[dict[str, Any]], session: Session) -> ModelCall:
    """Return the model call that a request makes, whose messages were shown already."""
    config = request.config
    parameters = {name: value for name in _PARAMETERS if (value := getattr(config, name, None)) is not None}
    return ModelCall(
        request.model or model.model,
        told,
        tools=[shown for offered in getattr(config, "tools", None) or () for shown in _tools(offered)],
        parameters=parameters,
        session=session,
    )


def shown(request: Any) -> list[dict[str, Any]]:
    """Return a request's messages: the system's first, then one for each content."""
    return [_message(role, parts) for role, parts in _contents(request)]


def sent(request: Any, told: list[dict[str, Any]], arguments: dict[str, Any]) -> Any:
    """Return the request to be sent: the one given, or a copy of it with what policy redacted.

    Args:
        request: ADK's request.
        told: its messages as they were shown.
        arguments: what the call may be made with.
    """
    after = arguments["messages"]
    if told == after:
        return request
    request = request.model_copy(deep=True)
    _parts_of_system(request)
    for (_, parts), message in zip(_contents(request), after, strict=True):
        content = message["content"]
        for part, item in zip(parts, [{"text": content}] if isinstance(content, str) else content, strict=True):
            _put(part, item)
    return request


def _contents(request: Any) -> Iterator[tuple[str, list[Any]]]:
    system = getattr(request.config, "system_instruction", None)
    if system:
        yield "system", _parts(system)
    for content in request.contents:
        yield _ROLES.get(content.role, content.role or "user"), content.parts or []


def _parts(content: Any) -> list[Any]:
    """Return the parts of a system instruction, which may be a text, a part, a content or a list of these."""
    if isinstance(content, list):
        return [part for item in content for part in _parts(item)]
    return list(content.parts or []) if hasattr(content, "parts") else [content]


def _parts_of_system(request: Any) -> None:
    """Make texts in a system instruction parts, which can be changed in place."""
    from google.genai import types

    system = getattr(request.config, "system_instruction", None)
    if system:
        parts = [types.Part(text=part) if isinstance(part, str) else part for part in _parts(system)]
        request.config.system_instruction = types.Content(role="system", parts=parts)


def _message(role: str, parts: list[Any]) -> dict[str, Any]:
    items = [_item(part) for part in parts]
    if len(items) == 1 and set(items[0]) == {"type", "text"}:
        return {"role": role, "content": items[0]["text"]}
    return {"role": role, "content": items}


def _item(part: Any) -> dict[str, Any]:
    """Return one part as policy sees it; of media its kind and digest, of what is unknown all that it says."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if (said := part.function_call) is not None:
        return {"type": "tool_call", "id": said.id or "", "name": said.name or "", "arguments": dict(said.args or {})}
    if (said := part.function_response) is not None:
        return {"type": "tool_result", "id": said.id or "", "name": said.name or "", "result": _json(said.response)}
    if (said := part.inline_data) is not None:
        data = said.data or b""
        digest = hashlib.sha256(data).hexdigest()
        return {"type": "media", "media_type": said.mime_type or "", "bytes": len(data), "sha256": digest}
    if part.text is not None:
        return {"type": "text", "text": part.text}
    return {"type": "part", "part": part.model_dump(mode="json", exclude_none=True)}


def _json(value: Any) -> Any:
    """Return a tool's result in JSON types; what has none is shown by its class."""
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else f"<{type(value).__name__}>"


def _put(part: Any, item: dict[str, Any]) -> None:
    """Write what policy made of a part into it."""
    if "text" in item:
        part.text = item["text"]
    elif "arguments" in item:
        part.function_call.args = item["arguments"]
    elif "result" in item:
        part.function_response.response = item["result"]


def _tools(offered: Any) -> Iterator[dict[str, Any]]:
    """Return what a request offers: functions in OpenAI's shape, what the model's side runs by its name."""
    for declared in getattr(offered, "function_declarations", None) or ():
        said = declared.model_dump(mode="json", exclude_none=True, by_alias=True)
        parameters = said.get("parametersJsonSchema") or said.get("parameters") or {}
        function = {"name": declared.name, "description": declared.description or "", "parameters": parameters}
        yield {"type": "function", "function": function}
    known = getattr(type(offered), "model_fields", None)
    if known is None:
        yield {"type": type(offered).__name__}
        return
    for name in known:
        if name != "function_declarations" and getattr(offered, name, None) is not None:
            yield {"type": name}
