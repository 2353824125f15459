"""A streamed chat completion: tool calls are held back until they are whole and decided."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tappass.errors import TapPassConfigError
from tappass.ext import ModelStream
from tappass_adapters.openai.chat import TEXTS, call_of
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
        self._open = "content"
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
        out = self._shown(chunk, choice)
        if choice.finish_reason is not None:
            out[:] = self._ending(out, chunk)
        return out

    def _shown(self, chunk: Any, choice: Any) -> list[Any]:
        changed: dict[str, Any] = {"tool_calls": None}
        before: list[Any] = []
        for name in TEXTS:
            if not isinstance(text := getattr(choice.delta, name, None), str):
                continue
            if text and name != self._open:
                # One text is read at a time: what was held back of another is shown before this one.
                before += self._held(chunk)
                self._open = name
            changed[name] = self._read(name, self._call.feed(text) if text else "")
            self._text = chunk
        logprobs = {"logprobs": None} if self._call.scans else {}
        return [*before, _with(chunk, delta=choice.delta.model_copy(update=changed), **logprobs)]

    def _read(self, name: str, shown: str) -> str:
        self._content += shown if name == "content" else ""
        return shown

    def _held(self, chunk: Any) -> list[Any]:
        """Return what was held back of the text that was read last, as a chunk of its own."""
        if not (text := self._read(self._open, self._call.finish())):
            return []
        others = dict.fromkeys((name for name in TEXTS if getattr(chunk.choices[0].delta, name, None)), None)
        delta = chunk.choices[0].delta.model_copy(update={**others, "tool_calls": None, self._open: text})
        return [_with(chunk, delta=delta, finish_reason=None)]

    def _ending(self, shown: list[Any], chunk: Any) -> list[Any]:
        """Return the last chunks with what was held back, which comes after what the last of them says itself."""
        last = shown[-1]
        held = self._held(chunk)
        if not held or not (said := getattr(last.choices[0].delta, self._open, None)):
            return [*shown[:-1], *held, last]
        said += getattr(held[0].choices[0].delta, self._open)
        delta = last.choices[0].delta.model_copy(update={self._open: said})
        return [*shown[:-1], _with(last, delta=delta)]

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
        return [] if self._ended or self._text is None else self._held(self._text)

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
