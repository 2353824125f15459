"""JSON text with its escapes written out, and put back."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tappass.engine.json_text import Escaper, Unescaper

letters = st.characters(exclude_categories=["Cs"], exclude_characters="\ue000\ue001")
texts = st.text(letters | st.sampled_from('"\\/\n\t\b\x00😀@'))
values = st.recursive(
    texts | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=8,
)


def through(text: str, cuts: list[int]) -> tuple[str, str]:
    """Return what a detector reads, and what comes out again."""
    unescaper, escaper = Unescaper(), Escaper()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    read = [unescaper.feed(text[start:end]) for start, end in pairwise(edges)] + [unescaper.finish()]
    return "".join(read), "".join(escaper.feed(piece) for piece in read)


@given(values, st.booleans(), st.lists(st.integers(0, 200)))
def test_every_value_means_the_same_afterwards(value: Any, ascii_only: bool, cuts: list[int]) -> None:
    assert json.loads(through(json.dumps(value, ensure_ascii=ascii_only), cuts)[1]) == value


@given(st.lists(st.integers(0, 60)))
def test_no_escape_hides_what_a_detector_looks_for(cuts: list[int]) -> None:
    read, written = through(r'{"to": "\nbob\u0040acme\u002ecom \ud83d\ude00\/"}', cuts)
    assert read == '{"to": "\nbob@acme.com 😀/"}'
    assert json.loads(written) == {"to": "\nbob@acme.com 😀/"}


@pytest.mark.parametrize("text", [r'"\u12', r'"\ud83d', '"\\', r'"\x41"', r'"\uZZZZ"', r'"\ude00"', r'"\ud83dx"'])
def test_broken_escapes_pass_without_an_error(text: str) -> None:
    read, written = through(text, list(range(len(text))))
    assert read.startswith('"')
    assert written.startswith('"')


def test_an_own_stand_in_cannot_forge_a_quote() -> None:
    read, written = through('{"a": "\ue000, \\ue001"}', [])
    assert json.loads(written) == {"a": "\ufffd, \ufffd"}
    assert "\ue000" not in read
