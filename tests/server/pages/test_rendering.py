"""Text of strangers as HTML: it adds no markup, hides nothing, and can be read back exactly."""

from __future__ import annotations

import html
import json
import re

import hypothesis
import msgspec
from hypothesis import strategies as st

from tappass.harmless import is_harmful
from tappass.server.pages import rendering
from tappass.server.pages.approvals import left
from tappass.server.pages.sessions import value_of

OURS = re.compile(r'</?(?:b class="mark"|b|i class="more"|i)>')
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def bare(markup: str) -> str:
    """Return what a reader sees; fails if there is any markup but ours."""
    text = OURS.sub("", markup)
    assert "<" not in text
    assert ">" not in text
    return html.unescape(text)


def read_back(markup: str) -> str:
    """Return the text that what is shown stands for."""

    def meant(found: re.Match[str]) -> str:
        return found[1].encode().decode("unicode_escape") + (found[2] if found[1] != r"\n" else "")

    return html.unescape(re.sub(r'<b class="mark">(.*?)</b>(\n?)', meant, markup))


@hypothesis.given(st.text())
def test_any_text_is_shown_without_markup_with_nothing_hidden_and_can_be_read_back(text: str) -> None:
    markup = str(rendering.marked(text))
    assert not [c for c in bare(markup) if is_harmful(c) and c != "\n"]
    assert read_back(markup) == text


@hypothesis.given(VALUES)
def test_any_value_is_shown_without_markup(value: object) -> None:
    markup = str(rendering.json(value))
    bare(markup)
    # A line's end inside of text is as good as its code to a reader, and no JSON.
    assert json.loads(read_back(markup), strict=False) == value
    bare(str(rendering.short(value, 10)))
    bare(str(rendering.prose(value)))


def test_what_looks_like_a_space_or_like_nothing_is_marked() -> None:
    for hidden in "\xa0\u2003\u200b\u2060\ufeff\u3164\ufe0f\U000e0041\ue000\u2028\ud800":
        assert "mark" in rendering.marked(f"a{hidden}b"), ascii(hidden)
    for plain in ("a b", "é", "ß", "漢字", "עברית", "🙂"):
        assert rendering.marked(plain) == plain


def test_long_values_are_folded_and_very_long_ones_cut() -> None:
    assert not value_of("short").long
    folded = value_of(["x" * 500])
    assert (folded.long, folded.cut, folded.text) == (True, False, msgspec.json.encode(["x" * 500]).decode())
    huge = value_of("y" * 1_000_000)
    assert (huge.cut, huge.size, len(huge.text)) == (True, 1_000_000, 20_000)


def test_the_time_that_is_left_has_the_unit_that_suits_it() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 1, tzinfo=UTC)
    for expires_at, said in (("2026-01-01T00:00:59.000000Z", "59 s"), ("2026-01-01T01:00:00Z", "60 min"),
                             ("2026-01-01T23:30:00Z", "23 h"), ("2026-01-04T00:00:00Z", "3 d"),
                             ("2025-12-31T00:00:00Z", "0 s")):  # fmt: skip
        assert left(expires_at, now) == said
