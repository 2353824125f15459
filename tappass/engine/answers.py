"""An upstream's answer as detectors read it: whole, or chunk by chunk with a bounded hold-back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tappass.enforcement.port import Scanner
from tappass.engine.json_text import Escaper, Unescaper
from tappass.engine.openai_shapes import Chunk, Completion, ToolCallDelta
from tappass.wire.chat import ToolCall
from tappass.wire.codec import encode
from tappass.wire.endings import Settlement
from tappass.wire.findings import Finding, Redaction

OpenScanner = Callable[[], Scanner]


class AskedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call as it is inspected: `arguments` read from their JSON text where they are JSON."""

    id: str
    name: str
    arguments: Any


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a completion that is inspected, redacted and stored."""

    content: str
    tool_calls: tuple[AskedCall, ...] = ()


def answer_of(completion: Completion) -> Answer:
    """Return what is to be inspected of a completion."""
    calls = (AskedCall(id=c.id, name=c.name, arguments=_read(c.arguments)) for c in completion.tool_calls)
    return Answer(content=completion.content, tool_calls=tuple(calls))


def tool_calls_of(answer: Answer, completion: Completion) -> tuple[ToolCall, ...]:
    """Return an answer's tool calls with JSON text again: the model's own where nothing was replaced in it."""
    return tuple(
        ToolCall(id=call.id, name=call.name, arguments=_written(call.arguments, said.arguments), index=index)
        for index, (call, said) in enumerate(zip(answer.tool_calls, completion.tool_calls, strict=True))
    )


def _read(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _written(arguments: Any, said: str) -> str:
    if arguments == _read(said):
        return said
    return arguments if isinstance(arguments, str) else encode(arguments).decode()


class AnswerScanner:
    """Reads a streamed answer: its text through one scanner, the arguments of each tool call through one each.

    It is the flow's `Scanner` as well, for chunks that have been through `read`: those it lets pass as they are.
    """

    def __init__(self, open_scanner: OpenScanner) -> None:
        self._open = open_scanner
        self._text = open_scanner()
        self._calls: dict[int, _ArgumentsScanner] = {}
        self._names: list[tuple[str, Scanner]] = []

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far; `where` says in which part of the answer."""
        return tuple(
            msgspec.structs.replace(found, where=where) for where, part in self._parts() for found in part.findings
        )

    @property
    def redactions(self) -> tuple[Redaction, ...]:
        """What was replaced so far."""
        return tuple(
            msgspec.structs.replace(made, where=where) for where, part in self._parts() for made in part.redactions
        )

    @property
    def shown(self) -> int:
        """Up to where the answer's text is shown."""
        return self._text.shown

    def read(self, chunk: Chunk) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """Return what is safe to show of the next chunk, and with its end what was held back.

        Raises:
            PolicyBlockError: the answer holds something that must not be shown at all.
        """
        text = self._text.feed(chunk.content) if chunk.content else ""
        deltas = [self._delta(delta) for delta in chunk.tool_calls]
        if chunk.finish_reason:
            rest, deltas_left = self.rest()
            return text + rest, (*deltas, *deltas_left)
        return text, tuple(delta for delta in deltas if delta.id or delta.name or delta.arguments)

    def rest(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """Return what is still held back, redacted."""
        deltas = [ToolCallDelta(index=index, arguments=call.finish()) for index, call in self._calls.items()]
        return self._text.finish(), tuple(delta for delta in deltas if delta.arguments)

    def feed(self, text: str) -> str:
        """Take plain text, of which a stream of chunks has none."""
        return self._text.feed(text)

    def finish(self) -> str:
        """Return nothing: what is held back goes out in a chunk of its own."""
        return ""

    def inspect(self, value: Any, *, opaque: bool) -> Settlement:
        """Let a chunk pass, since `read` made it."""
        return Settlement()

    def _delta(self, delta: ToolCallDelta) -> ToolCallDelta:
        if delta.index not in self._calls:
            self._calls[delta.index] = _ArgumentsScanner(self._open())
        return ToolCallDelta(
            index=delta.index,
            id=self._whole(delta.id, f"/tool_calls/{delta.index}/id"),
            name=self._whole(delta.name, f"/tool_calls/{delta.index}/name"),
            arguments=self._calls[delta.index].feed(delta.arguments) if delta.arguments else "",
        )

    def _whole(self, text: str, where: str) -> str:
        if not text:
            return ""
        scanner = self._open()
        self._names.append((where, scanner))
        return scanner.feed(text) + scanner.finish()

    def _parts(self) -> list[tuple[str, Any]]:
        arguments = [(f"/tool_calls/{index}/arguments", call.scanner) for index, call in self._calls.items()]
        return [("/content", self._text), *arguments, *self._names]


class _ArgumentsScanner:
    """Reads the JSON text of one tool call's arguments with its escapes written out."""

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        self._unescaper = Unescaper()
        self._escaper = Escaper()

    def feed(self, text: str) -> str:
        return self._escaper.feed(self.scanner.feed(self._unescaper.feed(text)))

    def finish(self) -> str:
        rest = self.scanner.feed(self._unescaper.finish())
        return self._escaper.feed(rest + self.scanner.finish())
