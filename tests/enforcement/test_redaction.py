from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tappass.enforcement.redaction import StreamRedactor, merge, redact_text, redact_value, texts
from tappass.errors import PolicyBlockError, TapPassConfigError
from tappass.wire.findings import Finding, Redaction


def secrets_in(text: str) -> list[Finding]:
    """Find every `<…>` of up to 8 characters, and every 777."""
    found = []
    for start in range(len(text)):
        end = text.find(">", start, start + 8)
        if text[start] == "<" and end >= 0 and "<" not in text[start + 1 : end]:
            found.append(Finding(kind="TAG", start=start, end=end + 1, category="pii"))
        if text[start : start + 3] == "777":
            found.append(Finding(kind="SEVEN", start=start, end=start + 3, category="secrets"))
    return found


def put(where: str, start: int, end: int, kind: str = "X") -> Redaction:
    return Redaction(kind=kind, start=start, end=end, replacement=f"[{kind}]", where=where)


def inspected(value: object) -> tuple[Finding, ...]:
    return tuple(
        Finding(kind=f.kind, start=f.start, end=f.end, where=where)
        for where, text in texts(value)
        for f in secrets_in(text)
    )


def test_texts_are_listed_in_the_order_they_are_written_with_their_pointers() -> None:
    value = {"to": "a", "n": 4111, "x": 1.5, "ok": True, "no": None, "in": ["b", {"c/d~e": "f"}, ("g",)]}
    assert list(texts(value)) == [
        ("/to~key", "to"),
        ("/to", "a"),
        ("/n~key", "n"),
        ("/n", "4111"),
        ("/x~key", "x"),
        ("/x", "1.5"),
        ("/ok~key", "ok"),
        ("/no~key", "no"),
        ("/in~key", "in"),
        ("/in/0", "b"),
        ("/in/1/c~1d~0e~key", "c/d~e"),
        ("/in/1/c~1d~0e", "f"),
        ("/in/2/0", "g"),
    ]


def test_a_plain_text_stands_at_the_empty_pointer() -> None:
    assert list(texts("hello")) == [("", "hello")]


def test_a_key_that_is_not_text_holds_none() -> None:
    assert list(texts({1: "a"})) == []


def test_a_value_nested_deeper_than_the_call_stack_is_read() -> None:
    value: object = "deep"
    for _ in range(20_000):
        value = [value]
    assert [text for _, text in texts(value)] == ["deep"]


def test_an_integer_too_long_to_write_is_refused() -> None:
    with pytest.raises(TapPassConfigError, match="pass it as text"):
        list(texts([10**5000]))


@pytest.mark.parametrize(
    ("redactions", "expected"),
    [
        ([], "mail a@b.co now"),
        ([put("", 5, 11)], "mail [X] now"),
        ([put("", 12, 15, "B"), put("", 0, 4, "A")], "[A] a@b.co [B]"),
        ([put("", 0, 6, "A"), put("", 5, 15, "B")], "[B]"),
        ([put("", 0, 4, "A"), put("", 4, 5, "B")], "[A][B]a@b.co now"),
    ],
)
def test_spans_are_replaced_in_a_text(redactions: list[Redaction], expected: str) -> None:
    assert redact_text("mail a@b.co now", redactions) == expected


@pytest.mark.parametrize(("start", "end"), [(0, 9), (-1, 2), (3, 3), (4, 2)])
def test_a_span_outside_its_text_releases_nothing(start: int, end: int) -> None:
    with pytest.raises(TapPassConfigError, match="nothing was released") as caught:
        redact_text("secret", [put("", start, end)])
    assert "secret" not in str(caught.value)


def test_overlapping_findings_become_one_redaction_under_the_longest_ones_kind() -> None:
    found = [
        Finding(kind="EMAIL", start=10, end=20),
        Finding(kind="URL", start=0, end=15),
        Finding(kind="CARD", start=20, end=24),
        Finding(kind="CARD", start=1, end=5, where="/a"),
    ]
    assert merge(found) == (put("", 0, 20, "URL"), put("", 20, 24, "CARD"), put("/a", 1, 5, "CARD"))


def test_a_value_is_redacted_in_place_and_keeps_its_containers() -> None:
    value = {"a": ["x<y>", ("<z>", 3)], "n": 777, "f": 777.5, "same": {"k": [1]}}
    clean = redact_value(value, merge(inspected(value)))
    assert clean == {"a": ["x[TAG]", ("[TAG]", 3)], "n": "[SEVEN]", "f": "[SEVEN]", "same": {"k": [1]}}
    assert type(clean["a"][1]) is tuple
    assert clean["same"] is value["same"]
    assert value == {"a": ["x<y>", ("<z>", 3)], "n": 777, "f": 777.5, "same": {"k": [1]}}


def test_keys_are_redacted_and_none_is_lost() -> None:
    value = {"<a>": 1, "[TAG]": 2, "<b>": "<c>", "[TAG]#2": 4}
    clean = redact_value(value, merge(inspected(value)))
    assert clean == {"[TAG]#3": 1, "[TAG]": 2, "[TAG]#4": "[TAG]", "[TAG]#2": 4}
    assert list(clean.values()) == [1, 2, "[TAG]", 4]


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": "b"}, "/x"),
        ({"a": "b"}, "/a/0"),
        ({"a": "b"}, "/x~key"),
        ({"a": True}, "/a"),
        ({"a": None}, "/a"),
        ({"a": ["b"]}, "/a"),
        ({"a": ["b"]}, "/a/1"),
        ({"a": ["b"]}, "/a/-1"),
        ({"a": ["b"]}, "/a/0~key"),
        ({"a": {1: "b"}}, "/a/1"),
        ({"a": b"bytes"}, "/a"),
        ("b", "/a"),
        ("b", "a"),
        ("b", "~key"),
    ],
)
def test_a_pointer_that_leads_nowhere_releases_nothing(value: object, where: str) -> None:
    with pytest.raises(TapPassConfigError, match="nothing was released"):
        redact_value(value, [put(where, 0, 1)])


def test_a_place_that_is_both_replaced_and_entered_releases_nothing() -> None:
    with pytest.raises(TapPassConfigError):
        redact_value({"a": ["bc"]}, [put("/a", 0, 1), put("/a/0", 0, 1)])


# One "<" at most: what is put in place of an inner match could complete an outer one.
noise = st.text(alphabet="<>7ab /~é😀", max_size=10).filter(lambda text: text.count("<") < 2)
values = st.recursive(
    st.one_of(noise, st.integers(0, 10**6), st.none(), st.booleans(), st.floats(0, 1e6)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(noise, inner, max_size=4)),
    max_leaves=20,
)


@given(values)
def test_a_redacted_value_holds_nothing_that_inspection_finds(value: object) -> None:
    clean = redact_value(value, merge(inspected(value)))
    assert inspected(clean) == ()
    assert json.dumps(clean).count("null") == json.dumps(value).count("null")


@given(st.text(alphabet="<>7ab😀", max_size=80), st.lists(st.integers(0, 80), max_size=12), st.booleans())
def test_a_stream_is_redacted_as_its_whole_text(text: str, at: list[int], singly: bool) -> None:
    places = list(range(len(text))) if singly else sorted(min(a, len(text)) for a in at)
    stream = StreamRedactor(secrets_in, 8, context=1)
    whole = redact_text(text, merge(secrets_in(text)))
    shown = ""
    for a, b in zip([0, *places], [*places, len(text)], strict=True):
        shown += stream.feed(text[a:b])
        assert whole.startswith(shown)
    assert shown + stream.finish() == whole
    assert stream.redactions == merge(secrets_in(text))


def test_a_stream_replaces_only_the_kinds_it_is_told_to() -> None:
    stream = StreamRedactor(secrets_in, 8, redact=("pii",))
    assert stream.feed("a <b> 777") + stream.finish() == "a [TAG] 777"
    assert [f.kind for f in stream.findings] == ["TAG", "SEVEN"]
    assert [r.kind for r in stream.redactions] == ["TAG"]


@pytest.mark.parametrize("name", ["SEVEN", "secrets"])
def test_a_blocked_kind_stops_the_stream_before_any_of_it_is_shown(name: str) -> None:
    stream = StreamRedactor(secrets_in, 8, block=(name,))
    shown = stream.feed("a <b> and then some more, 7")
    with pytest.raises(PolicyBlockError) as caught:
        stream.feed("77 and the rest of it")
    assert "7" not in shown
    assert caught.value.blocked_by == "detect.secrets.result"
    assert "777" not in str(caught.value)


def test_a_stopped_stream_stays_stopped() -> None:
    stream = StreamRedactor(secrets_in, 8, block=("SEVEN",))
    with pytest.raises(PolicyBlockError):
        stream.feed("777" + "x" * 20)
    with pytest.raises(PolicyBlockError):
        stream.feed("harmless")
    with pytest.raises(PolicyBlockError):
        stream.finish()


def test_a_blocked_kind_in_what_is_held_back_stops_the_end_of_the_stream() -> None:
    stream = StreamRedactor(secrets_in, 8, block=("SEVEN",))
    assert stream.feed("777") == ""
    with pytest.raises(PolicyBlockError):
        stream.finish()


def test_the_next_text_starts_anew_while_positions_count_on() -> None:
    stream = StreamRedactor(secrets_in, 8)
    assert stream.feed("<a") + stream.finish() == "<a"
    assert stream.feed("b> <c>") + stream.finish() == "b> [TAG]"
    assert [(f.start, f.end) for f in stream.findings] == [(5, 8)]


def test_an_item_that_is_not_text_is_inspected_where_it_stands() -> None:
    stream = StreamRedactor(secrets_in, 8, redact=("TAG",), block=("SEVEN",))
    settlement = stream.inspect({"a": ["<b>"]}, opaque=False)
    assert settlement.redactions == (put("/a/0", 0, 3, "TAG"),)
    assert not settlement.withheld_by
    assert stream.inspect({"a": 777}, opaque=False).withheld_by == "detect.secrets.result"


@pytest.mark.parametrize(("require", "withheld_by"), [(True, "opaque-result"), (False, "")])
def test_an_item_that_cannot_be_inspected_is_withheld_only_where_required(require: bool, withheld_by: str) -> None:
    stream = StreamRedactor(secrets_in, 8, require=require)
    assert stream.inspect(None, opaque=True).withheld_by == withheld_by


def test_a_long_chain_of_overlapping_matches_is_one_replacement_in_bounded_memory() -> None:
    def pairs(text: str) -> list[Finding]:
        return [Finding(kind="AB", start=i, end=i + 2) for i in range(len(text) - 1) if text[i] in "ab"]

    stream = StreamRedactor(pairs, 2, context=1)
    for _ in range(500):
        assert stream.feed("abababab") == ""
        assert len(stream._buffer) <= 8 + 2 + 1
    assert stream.feed("..") + stream.finish() == "[AB]."
    assert stream.redactions == (put("", 0, 4001, "AB"),)


def test_without_a_hint_the_last_window_is_held_back_and_with_one_only_what_is_open() -> None:
    text = "0123456789"
    assert StreamRedactor(secrets_in, 4).feed(text) == "012345"
    hinted = StreamRedactor(secrets_in, 4, open_at=lambda buffer: len(buffer) - 1)
    assert hinted.feed(text) == "012345678"
    assert hinted.feed("") == ""
    assert hinted.finish() == "9"


def test_a_finding_that_runs_past_the_end_masks_the_rest() -> None:
    stream = StreamRedactor(lambda text: [Finding(kind="X", start=2, end=99)], 4)
    assert stream.feed("ab cd") + stream.finish() == "ab[X]"
