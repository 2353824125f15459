"""CrewAI's messages and model settings, as policy reads them."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_jsonable_python

from tappass.errors import TapPassConfigError

_KEYS = ("role", "content", "name", "tool_call_id", "tool_calls")
_PARAMETERS = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "reasoning_effort")


def shown(message: Any) -> dict[str, Any]:
    """Return a message in OpenAI's shape, in JSON types; of files their names."""
    shown = {
        key: to_jsonable_python(message[key], bytes_mode="base64", fallback=lambda value: f"<{type(value).__name__}>")
        for key in _KEYS
        if message.get(key) is not None
    }
    if files := message.get("files"):
        shown["files"] = sorted(map(str, files))
    return shown


def unseen(announced: Any, given: list[Any]) -> list[Any]:
    """Return the system's messages of a call that its provider keeps apart from those that it gives to hooks."""
    told = getattr(announced, "messages", None)
    if not isinstance(told, list) or any(message.get("role") == "system" for message in given):
        return []
    return [message for message in told if message.get("role") == "system"]


def put(messages: list[Any], told: list[dict[str, Any]], allowed: dict[str, Any], unseen: int = 0) -> None:
    """Have the model get what was allowed of the messages that CrewAI's hooks share: all but the first, unseen ones."""
    after = allowed["messages"]
    if after[:unseen] != told[:unseen]:
        raise TapPassConfigError("the model was not asked: its provider's system prompt cannot be redacted")
    for index, (before_, after_) in enumerate(zip(told[unseen:], after[unseen:], strict=True)):
        changed = {key: value for key, value in after_.items() if value != before_.get(key)}
        if "files" in changed:
            raise TapPassConfigError("the model was not asked: the names of files cannot be redacted")
        if changed:
            messages[index] = {**messages[index], **changed}


def parameters(llm: Any) -> dict[str, Any]:
    """Return how a model object is set."""
    found = {name: getattr(llm, name, None) for name in _PARAMETERS}
    return {name: value for name, value in found.items() if isinstance(value, bool | int | float | str)}


def whose(context: Any) -> dict[str, str]:
    """Return who asks, as CrewAI names them."""
    named = {
        "agent": str(getattr(context.agent, "role", "") or ""),
        "task": str(getattr(context.task, "name", "") or getattr(context.task, "description", "") or ""),
    }
    return {kind: name for kind, name in named.items() if name}
