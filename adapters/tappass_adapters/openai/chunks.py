"""A streamed chat completion: tool calls are held back until they are whole and decided."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tappass.errors import TapPassConfigError
from tappass.ext import ModelStream
from tappass_adapters.openai.chat import call_of
from tappass_adapters.openai.loop import Asked


class ChatChunks:
    """The chunks of one answer, in the order in which they may be seen.

    Attributes:
        answer: the whole answer as far as a loop needs it, None before its end.
        wanted: the function calls in it.
    """

    def __init__(self, call: ModelStream) -> None:
        self._call = call
        self._parts: dict[int, dict[str, Any]] = {}
        self._content = ""
        self._text: Any = None
        self._last: list[Any] = []
        self._ended = False
        self.answer: Any = None
        self.wanted: list[Asked] = []

    def take(self, chunk: Any) -> list[Any]:
        """Return the chunks that may be looked at now.

        Raises:
            TapPassConfigError: it is of a kind that nobody can decide.
        """
        usage = getattr(chunk, "usage", None)
        self._call.heard(chunk.model, getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
        if len(chunk.choices) > 1 or any(choice.index for choice in chunk.choices):
            raise TapPassConfigError("a governed stream has one choice: ask for `n=1`")
        if not chunk.choices:
            return [chunk]
        (choice,) = chunk.choices
        if getattr(choice.delta, "function_call", None) is not None:
            raise TapPassConfigError("the answer holds a `function_call`, which nobody has decided")
        for part in choice.delta.tool_calls or ():
            self._add(part)
        out = [self._shown(chunk, choice)]
        if choice.finish_reason is not None and (rest := self._call.finish()):
            self._content += rest
            first = choice.delta.model_copy(update={"content": rest, "tool_calls": None})
            out.insert(0, _with(chunk, delta=first, finish_reason=None))
        return out

    def _shown(self, chunk: Any, choice: Any) -> Any:
        changed: dict[str, Any] = {"tool_calls": None}
        for name in ("content", "refusal"):
            if isinstance(text := getattr(choice.delta, name, None), str):
                changed[name] = shown = self._call.feed(text)
                self._content += shown if name == "content" else ""
                self._text = chunk
        logprobs = {"logprobs": None} if self._call.scans else {}
        return _with(chunk, delta=choice.delta.model_copy(update=changed), **logprobs)

    def _add(self, part: Any) -> None:
        call = self._parts.setdefault(part.index, {"id": "", "type": "function", "name": "", "arguments": ""})
        call["id"] += part.id or ""
        call["type"] = part.type or call["type"]
        if part.function is not None:
            call["name"] += part.function.name or ""
            call["arguments"] += part.function.arguments or ""

    def whole(self, chunk: Any) -> list[Asked]:
        """Return the function calls that are whole now, to be decided."""
        if self._ended or not chunk.choices or chunk.choices[0].finish_reason is None:
            return []
        self._ended = True
        self.wanted = [call_of(_item(self._parts[index])) for index in sorted(self._parts)]
        return self.wanted

    def released(self, chunk: Any, decided: list[Asked]) -> list[Any]:
        """Return the chunks that the caller may see now."""
        if not self._ended:
            return [chunk]
        if chunk.choices and chunk.choices[0].finish_reason is not None:
            message = SimpleNamespace(role="assistant", content=self._content or None)
            self.answer = SimpleNamespace(
                id=chunk.id, choices=[SimpleNamespace(message=_Message(message))], model=chunk.model
            )
            allowed = [call for call in self.wanted if not call.told]
            if allowed:
                self._last.append(_with(chunk, delta=_delta(chunk, allowed), finish_reason=None))
        self._last.append(chunk)
        return []

    def rest(self) -> list[Any]:
        """Return what is left when the stream has ended without saying why."""
        if self._ended or not (text := self._call.finish()) or self._text is None:
            return []
        return [_with(self._text, delta=self._text.choices[0].delta.model_copy(update={"content": text}))]

    def last(self) -> list[Any]:
        """Return the chunks that end the answer."""
        return self._last


class _Message:
    def __init__(self, message: SimpleNamespace) -> None:
        self._message = message

    def to_dict(self, mode: str = "json") -> dict[str, Any]:
        return dict(vars(self._message))


def _item(call: dict[str, Any]) -> Any:
    from openai.types.chat import ChatCompletionMessageToolCall

    function = {"name": call["name"], "arguments": call["arguments"]}
    return ChatCompletionMessageToolCall.model_validate({"id": call["id"], "type": call["type"], "function": function})


def _delta(chunk: Any, allowed: list[Asked]) -> Any:
    from openai.types.chat.chat_completion_chunk import ChoiceDelta

    calls = [
        {"index": at, "id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.given}}
        for at, call in enumerate(allowed)
    ]
    return ChoiceDelta.model_validate({"role": None, "tool_calls": calls})


def _with(chunk: Any, **changed: Any) -> Any:
    return chunk.model_copy(update={"choices": [chunk.choices[0].model_copy(update=changed)]})
