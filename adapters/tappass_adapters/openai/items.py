"""The Responses API's items as policy reads them, and as they are sent and shown after redaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tappass.errors import TapPassConfigError
from tappass.ext import ModelCall, ModelStream

LAST = ("response.completed", "response.incomplete", "response.failed")
# An item's texts by the attribute that holds its parts.
_PARTS = ("content", "summary")


def plain(value: Any) -> Any:
    """Return a request's value in JSON types, as the client would send it."""
    if hasattr(value, "to_dict"):
        return value.to_dict(mode="json")
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_unset=True, by_alias=True)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    return value


def offered(name: str, description: Any, parameters: Any) -> dict[str, Any]:
    """Return a tool that is offered to a model, as the plane knows it again."""
    function = {"name": name, "description": str(description or ""), "parameters": plain(dict(parameters or {}))}
    return {"type": "function", "function": function}


def messages(instructions: Any, given: Any) -> list[dict[str, Any]]:
    """Return a request's instructions and input as messages."""
    told: list[dict[str, Any]] = []
    if instructions is not None:
        told.append({"role": "system", "content": plain(instructions)})
    if isinstance(given, str):
        return [*told, {"role": "user", "content": given}]
    for item in given or ():
        one = plain(item)
        told.append(one if isinstance(one, dict) else {"role": "user", "content": one})
    return told


def sent(arguments: dict[str, Any], asked: dict[str, Any], given: Any) -> tuple[Any, Any]:
    """Return instructions and input as they may be sent: the caller's own objects, unless something was redacted.

    Raises:
        TapPassConfigError: of something else than the messages something would have to be redacted.
    """
    only_messages(arguments, asked)
    told, changed = asked["messages"], arguments["messages"]
    rest = changed[len(told) - (1 if isinstance(given, str) else len(given or ())) :]
    system = changed[0]["content"] if len(rest) < len(changed) else None
    if changed == told:
        return system, [_sendable(item) for item in given] if isinstance(given, list) else given
    return system, rest[0]["content"] if isinstance(given, str) else [_sendable(item) for item in rest]


def only_messages(arguments: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse to send what would have to be redacted elsewhere than in the messages.

    Raises:
        TapPassConfigError: a tool's definition, or a parameter, would have to be.
    """
    if other := sorted(
        name for name in asked.keys() & arguments.keys() - {"messages"} if arguments[name] != asked[name]
    ):
        raise TapPassConfigError(f"the model was not asked: what must be redacted lies in its {' and '.join(other)}")


def parsed_again(parsed: Any, text: str) -> Any:
    """Return what the client made of a text, made again of the text that may be seen.

    Raises:
        TapPassConfigError: that text is none any more of which it can be made.
    """
    try:
        return type(parsed).model_validate_json(text) if hasattr(parsed, "model_validate_json") else json.loads(text)
    except ValueError:
        raise TapPassConfigError("the answer was withheld: redacted, it is no longer what was to be parsed") from None


def _sendable(item: Any) -> Any:
    """Leave out of an item what only we read in it."""
    return {key: value for key, value in item.items() if key != "tappass"} if isinstance(item, dict) else item


def _texts_of(item: Any) -> list[tuple[str, int, str, str]]:
    """Return an item's texts, each with where it stands: the list, the place in it, the attribute."""
    found = []
    for held in _PARTS:
        parts = getattr(item, held, None)
        for at, part in enumerate(parts if isinstance(parts, list) else ()):
            for name in ("text", "refusal"):
                if isinstance(text := getattr(part, name, None), str):
                    found.append((held, at, name, text))
    return found


def texts(output: Sequence[Any]) -> list[str]:
    """Return the texts of an answer's items, in order."""
    return [text for item in output for *_, text in _texts_of(item)]


def with_texts(output: Sequence[Any], shown: Sequence[str]) -> Any:
    """Return an answer's items with these texts instead; the same items if none has changed."""
    if list(shown) == texts(output):
        return output
    left = iter(shown)
    return [_with(item, left) for item in output]


def _with(item: Any, left: Any) -> Any:
    held: dict[str, list[Any]] = {}
    for where, at, name, _ in _texts_of(item):
        parts = held.setdefault(where, list(getattr(item, where)))
        known = type(parts[at]).model_fields
        # What else tells of the text: where each token stands, and which it was.
        aside: dict[str, Any] = {
            other: [] for other in ("annotations", "logprobs") if other in known and getattr(parts[at], other)
        }
        shown = next(left)
        if (parsed := getattr(parts[at], "parsed", None)) is not None and shown != getattr(parts[at], name):
            aside["parsed"] = parsed_again(parsed, shown)
        parts[at] = parts[at].model_copy(update={name: shown, **aside})
    return item.model_copy(update=held) if held else item


def heard(call: ModelCall, answer: Any, name: str = "") -> None:
    """Note which model answered, and how many tokens it took."""
    usage = getattr(answer, "usage", None)
    model = getattr(answer, "model", "")
    call.heard(
        name or (model if isinstance(model, str) else ""),
        getattr(usage, "input_tokens", None),
        getattr(usage, "output_tokens", None),
    )


class Reading:
    """A streamed answer's events, each as far as it may be seen."""

    def __init__(self, call: ModelStream) -> None:
        self._call = call
        self._shown: dict[tuple[Any, ...], str] = {}
        self._open: tuple[Any, ...] | None = None
        self._last: Any = None

    def take(self, event: Any) -> list[Any]:
        """Return the events that may be seen now.

        Raises:
            GovernanceDecision: the answer holds what must not be shown.
        """
        if not self._call.scans:
            return [event]
        if event.type.endswith(".delta") and "arguments" not in event.type and isinstance(event.delta, str):
            return self._delta(event)
        ends = event.type.endswith(".done") or event.type in LAST or event.type == "response.output_item.added"
        return [*(self._rest() if ends else ()), self._whole(event)]

    def _delta(self, event: Any) -> list[Any]:
        key = _key(event)
        before = self._rest() if self._open not in (None, key) else []
        self._open, self._last = key, event
        return [*before, *self._piece(event, self._call.feed(event.delta))]

    def _piece(self, event: Any, text: str) -> list[Any]:
        if not text:
            return []
        key = _key(event)
        self._shown[key] = self._shown.get(key, "") + text
        aside = _without_logprobs(event)
        return [event.model_copy(update={"delta": text, **aside})]

    def _rest(self) -> list[Any]:
        if self._open is None:
            return []
        event, self._open = self._last, None
        self._shown.setdefault(_key(event), "")
        return self._piece(event, self._call.finish())

    def _whole(self, event: Any) -> Any:
        """Return an event that repeats what was said before, with the texts as they were shown."""
        for name in ("text", "refusal"):
            if event.type.endswith(".done") and isinstance(text := getattr(event, name, None), str):
                aside = _without_logprobs(event)
                return event.model_copy(update={name: self._told(_key(event), text), **aside})
        if (part := getattr(event, "part", None)) is not None:
            return event.model_copy(update={"part": self._part(part, event)})
        if (item := getattr(event, "item", None)) is not None:
            return event.model_copy(update={"item": self._item(item, event.output_index)})
        if (answer := getattr(event, "response", None)) is not None:
            output = [self._item(item, at) for at, item in enumerate(answer.output)]
            return event.model_copy(update={"response": answer.model_copy(update={"output": output})})
        return event

    def _told(self, key: tuple[Any, ...], text: str) -> str:
        if key not in self._shown:
            self._shown[key] = self._call.feed(text) + self._call.finish()
        return self._shown[key]

    def _part(self, part: Any, event: Any) -> Any:
        for name in ("text", "refusal"):
            if isinstance(text := getattr(part, name, None), str) and text:
                return part.model_copy(update={name: self._told(_key(event), text)})
        return part

    def _item(self, item: Any, output_index: int) -> Any:
        told = [self._told((output_index, held, at), text) if text else text for held, at, _, text in _texts_of(item)]
        return with_texts([item], told)[0]


def _without_logprobs(event: Any) -> dict[str, Any]:
    # They spell out the tokens.
    return {"logprobs": []} if "logprobs" in type(event).model_fields else {}


def _key(event: Any) -> tuple[Any, ...]:
    """Return which text an event is of."""
    summary = getattr(event, "summary_index", None)
    if summary is not None:
        return (event.output_index, "summary", summary)
    return (event.output_index, "content", getattr(event, "content_index", 0))
