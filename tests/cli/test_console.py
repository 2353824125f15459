"""Nothing that a stranger wrote is ever interpreted by the terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tappass.cli.console import agreed, console, emit, inline, shown
from tappass.errors import TapPassConfigError

HARMFUL = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@given(st.text())
def test_shown_text_holds_nothing_a_terminal_interprets(text: str) -> None:
    assert not [c for c in shown(text) if unicodedata.category(c) in HARMFUL]


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"])))
def test_harmless_text_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31m", r"\x9b31m"),
        ("a\nb", r"a\nb"),
        ("evil\u202egpj.exe", r"evil\u202egpj.exe"),
        ("\ud800", r"\ud800"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
        ("Österlånggatan ✓", "Österlånggatan ✓"),
    ],
)
def test_what_would_act_on_the_terminal_is_escaped(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_limit_cuts_before_escaping_and_says_so() -> None:
    assert shown("\x1b" * 5, limit=2) == r"\x1b\x1b…"
    assert shown("abc", limit=3) == "abc"


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_is_harmless_and_means_the_same(value: object) -> None:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            emit(value)
        except UnicodeEncodeError:
            # Lone surrogates have no JSON in UTF-8; they cannot come out of a database of UTF-8 either.
            return
    text = out.getvalue()
    assert text.count("\n") == 1
    assert not [c for c in text.rstrip("\n") if unicodedata.category(c) in HARMFUL]
    assert json.loads(text) == value


def test_rich_markup_is_not_interpreted(capsys: pytest.CaptureFixture[str]) -> None:
    console().print("[red]not red[/red] :smile:")
    assert capsys.readouterr().out == "[red]not red[/red] :smile:\n"


def test_inline_is_one_line_of_json() -> None:
    assert inline({"a": "x\ny"}) == r'{"a":"x\ny"}'


def test_a_question_with_nobody_to_ask_is_an_error_and_no_yes() -> None:
    assert agreed("Really?", yes=True)
    with pytest.raises(TapPassConfigError, match="--yes"):
        agreed("Really?", yes=False)
