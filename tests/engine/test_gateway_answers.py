"""Streamed answers, read chunk by chunk: text and tool calls."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tappass.enforcement.redaction import StreamRedactor, merge, redact_text
from tappass.engine.answers import AnswerScanner
from tappass.engine.detect.detectors import Detectors
from tappass.engine.openai_shapes import Chunk, ToolCallDelta
from tappass.errors import PolicyBlockError

DETECTORS = Detectors()
TEXT = "Write to jane.doe@acme.example or bob@acme.example; card 4111 1111 1111 1111. Done."
ARGUMENTS = {
    "to": "jane.doe@acme.example",
    "lines": ["one\nbob@acme.example", 'quote " and \\ stay'],
    "card": "4111111111111111",
    "n": 3,
}


def scanner(**kinds: tuple[str, ...]) -> AnswerScanner:
    return AnswerScanner(lambda: StreamRedactor(DETECTORS.find, DETECTORS.window(), open_at=DETECTORS.open_at, **kinds))


def pieces(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.integers(0, len(TEXT))))
def test_text_in_any_pieces_is_redacted_as_a_whole(cuts: list[int]) -> None:
    reading = scanner()
    shown = [reading.read(Chunk(content=piece))[0] for piece in pieces(TEXT, cuts)]
    shown.append(reading.read(Chunk(finish_reason="stop"))[0])
    assert "".join(shown) == redact_text(TEXT, merge(DETECTORS.find(TEXT)))
    assert sorted(found.kind for found in reading.findings) == ["EMAIL", "EMAIL", "PAYMENT_CARD"]
    assert {found.where for found in reading.findings} == {"/content"}


@given(st.lists(st.integers(0, 200)), st.booleans())
def test_arguments_in_any_pieces_stay_json_without_what_is_redacted(cuts: list[int], escaped: bool) -> None:
    text = json.dumps(ARGUMENTS)
    if escaped:
        text = text.replace("@", r"\u0040").replace("4111", r"4\u003111")
    reading = scanner()
    shown = [
        delta.arguments
        for piece in pieces(text, cuts)
        for delta in reading.read(Chunk(tool_calls=(ToolCallDelta(index=0, arguments=piece),)))[1]
    ]
    shown += [delta.arguments for delta in reading.read(Chunk(finish_reason="tool_calls"))[1]]
    assert json.loads("".join(shown)) == {
        "to": "[EMAIL]",
        "lines": ["one\n[EMAIL]", 'quote " and \\ stay'],
        "card": "[PAYMENT_CARD]",
        "n": 3,
    }
    assert {found.where for found in reading.findings} == {"/tool_calls/0/arguments"}


def test_calls_side_by_side_do_not_mix() -> None:
    reading = scanner()
    shown = {0: "", 1: ""}
    for one, two in zip('{"a":"x@acme.example"}', '{"b":"y@acme.example"}', strict=True):
        deltas = (ToolCallDelta(index=0, arguments=one), ToolCallDelta(index=1, arguments=two))
        for delta in reading.read(Chunk(tool_calls=deltas))[1]:
            shown[delta.index] += delta.arguments
    for delta in reading.rest()[1]:
        shown[delta.index] += delta.arguments
    assert shown == {0: '{"a":"[EMAIL]"}', 1: '{"b":"[EMAIL]"}'}


def test_names_and_ids_of_calls_are_read_too() -> None:
    reading = scanner()
    delta = ToolCallDelta(index=0, id="call_1", name="mail bob@acme.example")
    assert reading.read(Chunk(tool_calls=(delta,)))[1] == (ToolCallDelta(index=0, id="call_1", name="mail [EMAIL]"),)
    assert [found.where for found in reading.findings] == ["/tool_calls/0/name"]


def test_what_must_not_be_shown_stops_the_stream() -> None:
    reading = scanner(block=("EMAIL",))
    with pytest.raises(PolicyBlockError):
        reading.read(Chunk(content="bob@acme.example is", finish_reason="stop"))
