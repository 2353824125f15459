"""A streamed answer of the Responses API: a function call is held back until it is whole and decided."""

from __future__ import annotations

from typing import Any

from tappass.ext import ModelStream
from tappass_adapters.openai import items
from tappass_adapters.openai.loop import Asked
from tappass_adapters.openai.responses import Responses, given, with_calls

_BEGINS = ("response.created", "response.in_progress", "response.queued")
_ARGUMENTS = "response.function_call_arguments."


class ResponseEvents:
    """The events of one answer, in the order in which they may be seen.

    Attributes:
        answer: the whole answer as the caller may see it, None before its end.
        wanted: the function calls in it.
        shown: whether anything of it was seen.
    """

    def __init__(self, call: ModelStream, before: ResponseEvents | None) -> None:
        self._call = call
        self._begun: list[Any] = []
        self._goes_on: bool = before is not None and before.shown
        self.shown: bool = self._goes_on
        self._first: int = before._first + len(before._places) if before is not None else 0
        self._reading = items.Reading(call)
        self._held: dict[int, list[Any]] = {}
        self._places: dict[int, int] = {}
        self._last: list[Any] = []
        self.answer: Any = None
        self.wanted: list[Asked] = []

    def take(self, event: Any) -> list[Any]:
        """Return the events that may be looked at now."""
        if event.type in items.LAST:
            items.heard(self._call, event.response)
        return self._reading.take(event)

    def whole(self, event: Any) -> list[Asked]:
        """Return the function calls that are whole now, to be decided."""
        known = {call.call_id for call in self.wanted}
        if event.type in items.LAST:
            found = Responses.calls(event.response)
        elif event.type in ("response.output_item.added", "response.output_item.done"):
            found = Responses.calls(_Output([event.item])) if event.item.type != "function_call" else []
            if event.type == "response.output_item.done" and event.item.type == "function_call":
                found = Responses.calls(_Output([event.item]))
                if found[0].call_id in known:
                    # An item is done once: this is another call of the same id, which is refused.
                    return [*self.wanted, *found]
        else:
            found = []
        new = [call for call in found if call.call_id not in known]
        self.wanted += new
        return new

    def released(self, event: Any, decided: list[Asked]) -> list[Any]:
        """Return the events that the caller may see now."""
        item, at = getattr(event, "item", None), getattr(event, "output_index", -1)
        if event.type in items.LAST:
            output = with_calls(event.response.output, self.wanted)
            self.answer = event.response.model_copy(update={"output": output})
            self._last = [event.model_copy(update={"response": self.answer})]
            return []
        if event.type == "response.output_item.done" and item is not None and item.type == "function_call":
            call = next(call for call in self.wanted if call.call_id == item.call_id)
            if call.told:
                return []
            return self._beginning([self._placed(one) for one in self._call_events(at, event, call)])
        if event.type.startswith(_ARGUMENTS) or (item is not None and item.type == "function_call"):
            self._held.setdefault(at, []).append(event)
            return []
        if event.type in _BEGINS:
            # It begins with its first event: of an answer that nothing is seen of, nobody hears.
            self._begun.append(event)
            return []
        return self._beginning([self._placed(event)])

    def _beginning(self, events: list[Any]) -> list[Any]:
        begun, self._begun = self._begun, []
        self.shown = True
        # To the caller it is one answer.
        return [*begun, *events] if not self._goes_on else events

    def _call_events(self, at: int, done: Any, call: Asked) -> list[Any]:
        held = self._held.pop(at, [])
        if call.given == call.text:
            return [*held, done]
        out: list[Any] = []
        for event in held:
            if event.type == f"{_ARGUMENTS}delta":
                if not any(one.type == event.type for one in out):
                    out.append(event.model_copy(update={"delta": call.given}))
            elif event.type == f"{_ARGUMENTS}done":
                out.append(event.model_copy(update={"arguments": call.given}))
            else:
                out.append(event)
        return [*out, done.model_copy(update={"item": given(done.item, call)})]

    def _placed(self, event: Any) -> Any:
        """Count an answer's items anew: those of refused calls are not there."""
        at = getattr(event, "output_index", None)
        if at is None:
            return event
        place = self._places.setdefault(at, self._first + len(self._places))
        return event if place == at else event.model_copy(update={"output_index": place})

    def rest(self) -> list[Any]:
        """Return what is left when the stream has ended."""
        return []

    def last(self) -> list[Any]:
        """Return the events that end the answer."""
        return self._beginning(self._last)


class _Output:
    def __init__(self, output: list[Any]) -> None:
        self.output = output
