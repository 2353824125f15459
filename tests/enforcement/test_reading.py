"""Streams keep their items: each is released as itself, late rather than joined with its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tappass.enforcement.drivers import perform
from tappass.enforcement.effects import Emit, Pull
from tappass.enforcement.flow import pump
from tappass.enforcement.listening import listens
from tappass.enforcement.redaction import StreamRedactor, merge, redact_text
from tappass.wire.correlation import Correlation
from tests.enforcement.test_redaction import secrets_in

CALL: Any = SimpleNamespace(action=SimpleNamespace(name="speak"), raise_on_redaction=False)
DECISION: Any = SimpleNamespace(correlation=Correlation())

pieces = st.lists(st.text("<>7ab", max_size=6), max_size=8)


def emitted(source: Any, answers: Callable[[], Any] = lambda: None) -> Iterator[Any]:
    """Yield what a caller gets from a source, as a driver would hand it over."""
    flow = pump(CALL, DECISION, source, StreamRedactor(secrets_in, 8))
    effect = next(flow)
    try:
        while True:
            if type(effect) is Emit:
                yield effect.item
                effect = flow.send(answers())
            else:
                assert type(effect) is Pull
                effect = flow.send(perform(effect, None))  # type: ignore[arg-type]
    except StopIteration:
        return


def own_texts(items: list[str]) -> list[str]:
    """Return what is to be seen of each item: its own characters, and the masks of matches that start in it."""
    spans = merge(secrets_in("".join(items)))
    out, start = [], 0
    for item in items:
        own = []
        for at, character in enumerate(item, start):
            span = next((s for s in spans if s.start <= at < s.end), None)
            own.append(character if span is None else span.replacement if span.start == at else "")
        out.append("".join(own))
        start += len(item)
    return out


@given(pieces)
@example(["<", "a", "a", ">b", "", "7", "7", "7"])
def test_each_item_of_a_stream_is_released_as_its_own_text_in_its_own_place(items):
    assert list(emitted(iter(items))) == own_texts(items)
    assert list(emitted(item for item in items)) == own_texts(items)


@given(pieces)
def test_bytes_keep_their_items_too(items):
    assert list(emitted(iter([item.encode() for item in items]))) == [text.encode() for text in own_texts(items)]


@given(pieces, st.lists(st.booleans(), max_size=8))
def test_however_a_stream_is_cut_and_whoever_listens_its_texts_joined_are_the_masked_text(items, listening):
    def source() -> Iterator[str]:
        for n, item in enumerate(items):
            if n < len(listening) and listening[n]:
                answer = yield item
                assert answer == "answer"
            else:
                yield item

    whole = "".join(items)
    assert "".join(emitted(source(), lambda: "answer")) == redact_text(whole, merge(secrets_in(whole)))


@given(pieces)
def test_a_generator_that_reads_what_it_is_sent_gets_each_answer_to_its_own_item(items):
    heard = []

    def source() -> Iterator[str]:
        for item in items:
            heard.append((yield item))

    numbers = iter(range(100))
    got = list(emitted(source(), lambda: next(numbers)))
    assert heard == list(range(len(items)))
    assert len(got) - len(items) in (0, 1), "one for one, and what is still held back at the end"


def test_what_stands_between_texts_keeps_its_place():
    assert list(emitted(iter(["us<", {"n": 1}, "er0", None, "<b", ">"]))) == ["us<", {"n": 1}, "er0", None, "[TAG]", ""]


def test_what_is_thrown_into_a_stream_loses_no_item_that_was_held_back():
    def source() -> Iterator[str]:
        for n in range(3):
            try:
                yield f"item{n}"
            except KeyError:
                yield "caught"

    flow = pump(CALL, DECISION, source(), StreamRedactor(secrets_in, 8))
    effect, got, thrown = next(flow), [], False
    try:
        while True:
            if type(effect) is Pull:
                effect = flow.send(perform(effect, None))  # type: ignore[arg-type]
                continue
            got.append(effect.item)
            effect = flow.send(None) if thrown else flow.throw(KeyError())
            thrown = True
    except StopIteration:
        pass
    assert got[0] == "item0"
    assert sorted(got) == ["caught", "item0", "item1", "item2"]


def test_it_is_known_whether_a_generator_reads_what_it_is_sent():
    def inner() -> Iterator[int]:
        yield 0
        print((yield 1))

    def outer() -> Iterator[int]:
        yield from inner()
        yield from [0]
        while (yield 1):
            yield 0

    source = outer()
    for item in source:
        assert listens(source) is bool(item)
    assert not listens(iter([]))

    class Foreign:
        def send(self, value: Any) -> None: ...

    assert listens(Foreign())
