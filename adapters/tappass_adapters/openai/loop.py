"""One loop around the official client, written once: what is asked, answered, called and handed in, in which order."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tappass.errors import TapPassConfigError, TapPassError
from tappass.ext import Interception, ModelCall, ModelStream, Session, ToolDefinition, current_session
from tappass_adapters.openai.steps import After, Before, Emit, Pull, Send, Steps

if TYPE_CHECKING:
    from tappass_adapters.openai.guard import OpenAIGuard

ROUNDS = 16
"""How often in a row a model may ask for nothing but what is refused, where the guard tells."""


@dataclass
class Asked:
    """One function call that a model asks for."""

    call_id: str
    name: str
    text: str
    item: Any
    """As the protocol has it."""
    given: str = ""
    """The arguments that the caller sees."""
    told: str = ""
    """What the model is told instead of the call's output, "" where the call may be made."""


@dataclass
class Refused:
    """Calls of one answer that the caller never sees; the model is told with the next request that goes on from it."""

    answer_id: str
    beside: set[str]
    calls: list[Asked] = field(default_factory=list)


class Loop:
    """What goes on between one governed client and its model.

    Args:
        guard: the guard that the client was handed out by.
    """

    def __init__(self, guard: OpenAIGuard) -> None:
        self.guard = guard
        self._open: dict[str, Interception] = {}
        self._settled: dict[str, list[Any]] = {}
        self._refused: list[Refused] = []
        self.runs: dict[str, Any] = {}
        """Of threads: what goes on in each run."""

    def session(self) -> Session:
        """Return the session that calls belong to now.

        Raises:
            TapPassConfigError: the guard has ended.
        """
        self.guard.checked()
        return current_session() or self.guard.session

    def turn(self, protocol: Any, request: dict[str, Any]) -> Steps:
        """Make one request; return the answer as the caller may see it."""
        request = yield from self._handed_in(protocol, request)
        for _ in range(ROUNDS):
            call, sent = yield from self._asked(ModelCall, protocol, request)
            try:
                answer = yield Send(sent)
            except BaseException as error:
                yield After(call, error=error)
                raise
            protocol.heard(call, answer)
            answer = protocol.with_texts(answer, (yield After(call, protocol.texts(answer))))
            wanted = yield from self.decided(protocol, request, protocol.calls(answer))
            answer = protocol.with_calls(answer, wanted)
            if self.seen(answer, wanted, protocol):
                return answer
            request = protocol.going_on(sent, answer, wanted)
        raise self._endless()

    def twice(self) -> TapPassConfigError:
        """Return the error for an answer with two calls of one id."""
        error = TapPassConfigError("the answer holds a call with the id of another, so it cannot be decided by itself")
        self.session().let_stand(error)
        return error

    def _endless(self) -> TapPassConfigError:
        error = TapPassConfigError(f"the model asked {ROUNDS} times in a row for nothing but what is refused")
        self.session().let_stand(error)
        return error

    def seen(self, answer: Any, wanted: list[Asked], protocol: Any) -> bool:
        """Tell whether the caller gets this answer; note what the model is to be told with the next request."""
        refused = [asked for asked in wanted if asked.told]
        allowed = {asked.call_id for asked in wanted if not asked.told}
        if refused and not allowed:
            return False
        if refused:
            self._refused.append(Refused(protocol.id_of(answer), allowed, refused))
        return True

    def _asked(self, kind: type[ModelCall], protocol: Any, request: dict[str, Any]) -> Steps:
        """Decide a model call; return it with the request as it may be sent."""
        asked = protocol.asked(request)
        self.guard.governed += 1
        call = kind(**asked, session=self.session())
        arguments = yield Before(call)
        try:
            return call, protocol.sendable(request, asked, arguments)
        except BaseException as error:
            yield After(call, error=error)
            raise

    def begin(self, protocol: Any, request: dict[str, Any]) -> Steps:
        """Begin a streamed request; return its call, the request that was sent and the stream."""
        call, sent = yield from self._asked(ModelStream, protocol, request)
        try:
            return call, sent, (yield Send(sent))
        except BaseException as error:
            yield After(call, error=error)
            raise

    def streamed(self, protocol: Any, request: dict[str, Any], begun: Any) -> Steps:
        """Hand on the events of a stream that was begun, each as far as it may be seen."""
        reading: Any = None
        for _ in range(ROUNDS):
            call, sent, stream = begun
            reading = protocol.reading(call, reading)
            try:
                while (event := (yield Pull(stream))) is not None:
                    for shown in reading.take(event):
                        wanted = yield from self.decided(protocol, request, reading.whole(shown))
                        for out in reading.released(shown, wanted):
                            yield Emit(out)
            except GeneratorExit:
                raise
            except BaseException as error:
                yield After(call, error=error)
                raise
            for out in reading.rest():
                yield Emit(out)
            yield After(call)
            if reading.answer is None or self.seen(reading.answer, reading.wanted, protocol):
                for out in reading.last():
                    yield Emit(out)
                return
            begun = yield from self.begin(protocol, protocol.going_on(sent, reading.answer, reading.wanted))
        raise self._endless()

    def handed_in(self, protocol: Any, request: dict[str, Any]) -> Steps:
        """Settle the outputs that a request hands in; return it with what the model may read of them."""
        return (yield from self._handed_in(protocol, request))

    def _handed_in(self, protocol: Any, request: dict[str, Any]) -> Steps:
        shown = yield from self.settled(protocol.outputs(request))
        request = protocol.with_outputs(request, shown)
        for refused in [one for one in self._refused if protocol.goes_on_from(request, one)]:
            request = protocol.with_told(request, refused)
            if protocol.keeps(request):
                self._refused.remove(refused)
        return request

    def settled(self, outputs: Iterable[tuple[str, Any]]) -> Steps:
        """Settle calls with their outputs; return what the model may read of each, also if it is sent again."""
        given = list(outputs)
        # Of calls that a server gave one id, the last output is the last call's.
        for call_id, output in dict(given).items():
            if (call := self._open.pop(call_id, None)) is not None:
                try:
                    seen = yield After(call, output)
                except TapPassError as error:
                    seen = call.refused(error)
                self._settled.setdefault(call_id, []).append(seen)
        shown: list[Any] = []
        left = {call_id: list(self._settled.get(call_id, ())) for call_id, _ in given}
        for call_id, output in reversed(given):
            known = left[call_id]
            shown.append((known.pop() if len(known) > 1 else known[0]) if known else output)
        return shown[::-1]

    def decided(self, protocol: Any, request: dict[str, Any], wanted: list[Asked]) -> Steps:
        """Decide the calls of an answer; return them with what the caller sees, or the model is told."""
        return (yield from self.decided_as(protocol.definitions(request), wanted))

    def decided_as(self, known: dict[str, ToolDefinition], wanted: list[Asked]) -> Steps:
        """Decide calls of functions that are offered so.

        Raises:
            TapPassConfigError: two of them have one id, by which nobody could tell which of them may be made.
        """
        ids = [asked.call_id for asked in wanted]
        if len({*ids}) < len(ids) or not self._open.keys().isdisjoint(ids):
            raise self.twice()
        open_: dict[str, Interception] = {}
        for asked in wanted:
            read = _arguments(asked.text)
            definition = known.get(asked.name) or ToolDefinition(name=asked.name, arguments=tuple(read))
            call = Interception(asked.name, read, definition=definition, session=self.session())
            try:
                arguments = yield Before(call)
            except TapPassError as error:
                asked.told = call.refused(error)
                continue
            asked.given = asked.text if read == {"input": asked.text} else json.dumps(arguments)
            open_[asked.call_id] = call
        self._open |= open_
        return wanted


def _arguments(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text) if text.strip() else {}
    except ValueError:
        given = None
    return given if isinstance(given, dict) else {"input": text}


def definition_of(name: str, description: Any, parameters: Any) -> ToolDefinition:
    """Return the definition of a function that is offered to a model."""
    schema = dict(parameters or {})
    properties = schema.get("properties")
    return ToolDefinition(
        name=name,
        description=str(description or ""),
        parameters=schema,
        arguments=tuple(properties) if isinstance(properties, dict) else (),
        open_arguments=schema.get("additionalProperties") is not False,
    )
