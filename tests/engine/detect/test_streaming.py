from __future__ import annotations

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tappass.enforcement.redaction import StreamRedactor, merge, redact_text
from tappass.engine.detect.detectors import Detectors

EVERYTHING = Detectors()

SECRETS = (
    "jane.doe@example.com",
    "a@b.co",
    "4111 1111 1111 1111",
    "378282246310005",
    "3782-822463-10005",
    "4111111111111111",
    "GB82 WEST 1234 5698 7654 32",
    "DE89370400440532013000",
    "536-90-4399",
    "my ssn is 536904399",
    "10.2.3.4",
    "2001:db8::8a2e:370:7334",
    "+1 202-555-0147",
    "call (202) 555-0147 x123",
    "AKIAIOSFODNN7EXAMPLE",
    "aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "sk-proj-abcd1234efgh5678ijkl9012",
    "xoxb-123456789012-abcdefABCDEF",
    "sk_" + "live_abcdefghijklmnop1234",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "postgres://app:s3cret@db.internal:5432/x",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nMIIE",
)
# Pieces that begin, resemble or break what the detectors look for.
SPLINTERS = (
    "@", ".", "-", "--", "-----", "-----BEGIN", "-----END PRIVATE KEY-----", "eyJ", "sk-", "ghp_", "://", ":", "::",
    "4111", " 1111", "0", "12", "+1", "(", ")", " x", " ext. 9", "ssn", "aws", "secret", "AKIA", "GB82", "DE", "/",
    "\\n", "\n", " ", "a", "Z", "_", "é", "日本", "😀", "e\u0301", "\uff14\uff11\uff11", "\u00a0", "\u2013", "\ud800",
    "x" * 70, "7" * 25,
)  # fmt: skip

noise = st.one_of(
    st.sampled_from(SPLINTERS),
    st.text(alphabet=string.ascii_letters + string.digits + " .-@:/_+()", max_size=12),
    st.text(max_size=4),
    st.text(alphabet=st.characters(max_codepoint=0xFF), max_size=4),
    st.sampled_from(("7 ", "a.", "x.y@", "1.2.", "555-", "ab:", "eyJ", "12 34-", "GB82 ", "(", " (")).map(
        lambda s: s * 60
    ),
)
planted = st.lists(st.one_of(noise, st.sampled_from(SECRETS)), min_size=1, max_size=14).map("".join)


def redactor(detectors: Detectors = EVERYTHING, **options: object) -> StreamRedactor:
    return detectors.redactor(**options)  # type: ignore[arg-type]


def shown(stream: StreamRedactor, pieces: list[str]) -> str:
    return "".join([*(stream.feed(piece) for piece in pieces), stream.finish()])


def cut(text: str, at: list[int]) -> list[str]:
    places = sorted({min(max(0, place), len(text)) for place in at})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@settings(max_examples=600, deadline=None)
@given(text=planted, at=st.lists(st.integers(0, 400), max_size=8))
def test_a_stream_is_redacted_as_its_whole_text_wherever_it_is_cut(text: str, at: list[int]) -> None:
    stream = redactor()
    found = tuple(EVERYTHING.find(text))
    assert shown(stream, cut(text, at)) == redact_text(text, merge(found))
    assert stream.findings == found
    assert stream.redactions == merge(found)


@settings(max_examples=150, deadline=None)
@given(text=planted)
@example("sk_" + "live_abcdefghijklmnop1234/0")
@example("a://b:c`d@host e")
@example("jane.doe@example.com\xd7A")
@example("call 555 202-555-0147 x 12 202-555-0147")
def test_a_stream_of_single_characters_is_redacted_as_its_whole_text(text: str) -> None:
    assert shown(redactor(), list(text)) == redact_text(text, merge(EVERYTHING.find(text)))


@settings(max_examples=150, deadline=None)
@given(text=planted, kind=st.sampled_from(sorted(EVERYTHING.kinds)), at=st.lists(st.integers(0, 400), max_size=8))
def test_each_detector_alone_streams_as_it_reads_whole_texts(text: str, kind: str, at: list[int]) -> None:
    alone = Detectors([kind])
    assert shown(redactor(alone), cut(text, at)) == redact_text(text, merge(alone.find(text)))


@settings(max_examples=100, deadline=None)
@given(text=planted, at=st.lists(st.integers(0, 400), max_size=8))
def test_no_character_of_a_match_is_shown_before_the_match_is_known(text: str, at: list[int]) -> None:
    whole = redact_text(text, merge(EVERYTHING.find(text)))
    stream, so_far = redactor(), ""
    for piece in cut(text, at):
        so_far += stream.feed(piece)
        assert whole.startswith(so_far)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_planted_secret_is_caught_in_pieces_of_every_size(secret: str) -> None:
    text = f"Well, {secret} it is. Nothing else to see, so on we go."
    whole = redact_text(text, merge(EVERYTHING.find(text)))
    assert "[" in whole
    for size in range(1, len(text)):
        assert shown(redactor(), [text[i : i + size] for i in range(0, len(text), size)]) == whole


def test_ordinary_prose_is_shown_word_by_word() -> None:
    stream = redactor()
    text = "The quarterly report is ready, and the team meets on Tuesday."
    held = 0
    for end, letter in enumerate(text, 1):
        stream.feed(letter)
        held = max(held, end - stream._shown)
    assert held <= len("quarterly ")


def test_what_is_held_back_stays_within_the_window() -> None:
    detectors = Detectors(["EMAIL", "PRIVATE_KEY"])
    stream = redactor(detectors)
    stream.feed("-----BEGIN PRIVATE KEY-----\n")
    for _ in range(100):
        stream.feed("MIIE" * 256)
        assert len(stream._buffer) <= detectors.window() + 128 + 1024


def test_a_window_without_bound_shows_nothing_before_the_end() -> None:
    stream = StreamRedactor(EVERYTHING.find, 0)
    assert stream.feed("mail a@b.co now. " * 3) == ""
    assert stream.finish() == "mail [EMAIL] now. " * 3
