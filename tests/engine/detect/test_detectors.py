from __future__ import annotations

import dataclasses
import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tappass.enforcement.redaction import merge, redact_text, redact_value
from tappass.engine.detect import detectors
from tappass.engine.detect.detector import PatternDetector
from tappass.engine.detect.detectors import SHORTEST, Detectors, catalogue, expand, is_short
from tappass.engine.detect.folding import fold
from tappass.errors import TapPassConfigError
from tappass.wire.findings import Finding

JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

# What is found is marked by « and ».
TRUE = {
    "EMAIL": [
        "write to «jane.doe+x@mail.example.co.uk».",
        "<«a@b.co»>",
        "mailto:«a_b%c@d-e.org»?subject=hi",
        "“«jörg@müller.de»”",
        "to=«a@b.co»&cc=«c@d.co»",
        "请联系«zhang@example.com»谢谢",
        "😀«a@b.co»😀",
        "«a@b.co»,«c@d.co»;«e@f.co»",
        "full width «ａ＠ｂ．ｃｏ»",  # noqa: RUF001
    ],
    "PAYMENT_CARD": [
        "«4111111111111111»",
        "card «4111 1111 1111 1111» 123",
        "«5500-0055-5555-5559»",
        "amex «3782 822463 10005».",
        "«378282246310005»",
        "«6011000990139424»",
        "«3530111333300000»",
        "«30569309025904»",
        "«\u0664\u0661\u0661\u0661 \u0661\u0661\u0661\u0661 \u0661\u0661\u0661\u0661 \u0661\u0661\u0661\u0661»",
        "«4111\u00a01111\u20091111\u20111111»",
        "1234 «4111 1111 1111 1111»",
    ],
    "IBAN": [
        "«GB82 WEST 1234 5698 7654 32» is mine",
        "«DE89370400440532013000»",
        "iban:«nl91abna0417164300»",
        "«BE68 5390 0754 7034».",
    ],
    "US_SSN": ["«536-90-4399»", "SSN: «536904399»", "social security number «536 90 4399»", "(«001-01-0001»)"],
    "IP_ADDRESS": ["from «192.168.1.20».", "«10.0.0.1»:8080", "[«2001:db8::1»]", "address:«fe80::1ff:fe23:4567:890a»"],
    "PHONE": [
        "«+1 202-555-0147»",
        "«(202) 555-0147»",
        "«+32 2 555 12 12»",
        "call me on «0470 12 34 56»",
        "«+44 20 7946 0958»!",
        "«202-555-0147 x123»",
    ],
    "AWS_ACCESS_KEY": ["«AKIAIOSFODNN7EXAMPLE»", "key=«ASIAIOSFODNN7EXAMPLE»;"],
    "AWS_SECRET_KEY": [f"aws_secret_access_key = «{AWS_SECRET}»", f'"SecretAccessKey": "«{AWS_SECRET}»"'],
    "GITHUB_TOKEN": [
        *(f"«gh{letter}_{'a1B2' * 9}»" for letter in "pousr"),
        f"«github_pat_{'A1b2C3d4E5' * 2}zz_{'x9' * 29}z»",
        f"token\\n«ghp_{'a1B2' * 9}»",
    ],
    "OPENAI_KEY": [
        "«sk-abcd1234efgh5678ijkl»",
        "«sk-abcdefghijklmnopqrstuvwxyzABCD»",
        f"OPENAI_API_KEY=«sk-proj-{'a1_B2-c3D4e5F6g7H8i9' * 5}»",
        f"«sk-svcacct-{'a1B2' * 10}»",
        f"«sk-ant-api03-{'a1B2' * 10}-AA»",
    ],
    "SLACK_TOKEN": ["«xoxb-123456789012-abcdefABCDEF»"],
    "STRIPE_KEY": ["«sk_" + "live_abcdefghijklmnop1234»", "«rk_" + "test_abcdefghijklmnop1234»"],
    "GOOGLE_API_KEY": ["«AIzaSyA1234567890abcdefghijklmnopqrstuv»"],
    "CONNECTION_STRING": [
        "DATABASE_URL=«postgres://app:s3cret@db.internal:5432/x?y=1»",
        "'«redis://:p%40ss@cache:6379/0»'",
        "«https://me:p@ss@example.com/x» or",
    ],
    "JWT": [f"Authorization: Bearer «{JWT}»", f"{{'t':'«{JWT}»'}}"],
    "PRIVATE_KEY": [
        "x\n«-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----»\ny",
        "«-----BEGIN OPENSSH PRIVATE KEY-----\\nb3Bl\\n-----END OPENSSH PRIVATE KEY-----»",
        "«-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQ\n-----END PGP PRIVATE KEY BLOCK-----»",
        "cut off: «-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg»",
    ],
}

NEAR_MISSES = {
    "EMAIL": ["a@b", "@handle", "user @ example.com", "a@.com", "a@b.1", "foo@@bar"],
    "PAYMENT_CARD": [
        "4111111111111112",
        "1234 5678 9012 3452",
        "41111111111111111",
        "0.4111111111111111",
        "a4111111111111111",
        "9111111111111111",
        "order 2024 1111 1111 1112",
    ],
    "IBAN": [
        "GB82 WEST 1234 5698 7654 33",
        "XX82WEST12345698765432",
        "DE8937040044053201300",
        "AGB82WEST12345698765432",
    ],
    "US_SSN": [
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        "123456789",
        "1123-45-6789",
        "123-45-67890",
        "12-123-45-6789",
        "classnumber 536904399",
    ],
    "IP_ADDRESS": [
        "256.1.1.1",
        "1.2.3",
        "1.2.3.4.5",
        "v1.2.3.4",
        "127.0.0.1",
        "::1",
        "std::vector",
        "a::b",
        "12:30:45",
    ],
    "PHONE": [
        "2024-01-31",
        "1234567",
        "12.50",
        "invoice 20240131",
        "4111 1111 1111 1111",
        "536-90-4399",
        "10.0.0.1",
        "+0 (000) 000 00",
    ],
    "AWS_ACCESS_KEY": ["AKIAIOSFODNN7EXAMPL", "XAKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLEX", "akiaiosfodnn7example"],
    "AWS_SECRET_KEY": [AWS_SECRET, "secret sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709", f"secret {AWS_SECRET}x"],
    "GITHUB_TOKEN": ["ghp_short", "ghx_" + "a" * 36, "github_pat_x"],
    "OPENAI_KEY": ["sk-learn-style-identifier-name", "task-abcd1234efgh5678ijkl", "sk-short1"],
    "SLACK_TOKEN": ["xoxb-1", "foxb-123456789012-abc"],
    "STRIPE_KEY": ["sk_" + "live_short", "sk_" + "prod_abcdefghijklmnop1234"],
    "GOOGLE_API_KEY": ["AIzaShort", "AIza" + "x" * 36],
    "CONNECTION_STRING": ["https://example.com/a:b", "https://example.com:80/x@y", "postgres://db/x", "a://b@c"],
    "JWT": [
        "eyJ!.a.b",
        "eyJ_.a.b",
        "eyJ9.a.b",
        "eyJhbGciOiJIUzI1NiJ9",
        "eyJhbGciOiJIUzI1NiJ9.e30",
        "eyJub3RoaW5nIjoxfQ.e30.abc",
        "x" + JWT,
    ],
    "PRIVATE_KEY": ["-----BEGIN PUBLIC KEY-----", "-----BEGIN CERTIFICATE-----\nMIIE", "BEGIN PRIVATE KEY"],
}

ALL = Detectors()


def test_every_built_in_kind_is_in_both_tables() -> None:
    assert ALL.kinds == TRUE.keys() == NEAR_MISSES.keys()


@pytest.mark.parametrize(("kind", "marked"), [(kind, text) for kind, texts in TRUE.items() for text in texts])
def test_what_is_marked_is_found(kind: str, marked: str) -> None:
    expected, plain = [], ""
    for part in marked.split("«"):
        inside, _, outside = part.partition("»")
        if outside or "»" in part:
            expected.append((len(plain), len(plain) + len(inside)))
        plain += inside + outside
    found = Detectors([kind]).find(plain)
    assert [(f.start, f.end) for f in found] == expected
    assert {(f.kind, f.category) for f in found} == {(kind, detectors.catalogue()[kind].category)}
    assert {(f.start, f.end) for f in ALL.find(plain) if f.kind == kind} == set(expected)


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in NEAR_MISSES.items() for text in texts])
def test_a_near_miss_is_not_found(kind: str, text: str) -> None:
    assert Detectors([kind]).find(text) == []


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_positions_count_code_points_in_any_script(before: str, after: str) -> None:
    text = f"{before} \U0001f600 4111 1111 1111 1111 {after}"
    at = text.index("4111 1111 1111 1111")
    assert any(f.start == at and f.end == at + 19 for f in Detectors(["PAYMENT_CARD"]).find(text))


@given(st.text())
def test_folding_keeps_one_byte_for_each_code_point(text: str) -> None:
    assert len(fold(text)) == len(text)


def test_folding_survives_a_lone_surrogate() -> None:
    assert [f.start for f in ALL.find("\ud800 a@b.co")] == [2]


@pytest.mark.parametrize(
    "value",
    [
        "a@b.co",
        {"deep": [{"er": ["x", "a@b.co"]}]},
        {"a@b.co": 1},
        {"card": 4111111111111111},
        {"t": ("a@b.co",)},
        {'é\n\t"\\': '\\ a@b.co "'},
        {"bad": "\ud800", "mail": "a@b.co"},
        {"n": 2**70, "mail": "a@b.co"},
        {"wide": "\u0664\u0661\u0661\u0661 \u0661\u0661\u0661\u0661 \u0661\u0661\u0661\u0661 \u0661\u0661\u0661\u0661"},
    ],
)
def test_what_is_inspected_can_be_redacted(value: object) -> None:
    found = ALL.inspect(value)
    assert len(found) == 1
    assert ALL.inspect(redact_value(value, merge(found))) == ()


def test_inspection_names_places_below_its_root() -> None:
    (found,) = ALL.inspect({"to": "mail a@b.co"}, root="/args")
    assert (found.where, found.start, found.end) == ("/args/to", 5, 11)


@settings(deadline=None)
@given(
    st.recursive(
        st.sampled_from(["a@b.co", "4111 1111 1111 1111", "x", "é\n", 4111111111111111, 7, None, "536-90-4399"]),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["k", "a@b.co", "k/~"]), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_inspection_agrees_with_reading_text_by_text(value: object) -> None:
    found = ALL.inspect(value)
    clean = redact_value(value, merge(found))
    assert ALL.inspect(clean) == ()
    assert bool(found) == (clean != value)


def test_overlapping_matches_are_both_found_and_replaced_as_one() -> None:
    text = "postgres://app:s3cret@db.internal/x"
    found = ALL.find(text)
    assert [f.kind for f in found] == ["CONNECTION_STRING", "EMAIL"]
    assert redact_text(text, merge(found)) == "[CONNECTION_STRING]"


def test_a_choice_of_kinds_finds_only_those() -> None:
    text = "a@b.co 536-90-4399 sk-abcd1234efgh5678ijkl"
    assert [f.kind for f in Detectors(["US_SSN"]).find(text)] == ["US_SSN"]
    assert [f.kind for f in Detectors(["secrets"]).find(text)] == ["OPENAI_KEY"]
    assert Detectors([]).find(text) == []


def test_categories_expand_to_their_kinds() -> None:
    assert {"EMAIL", "PHONE"} <= expand(["pii"])
    assert expand(["secrets", "EMAIL"]) == expand(["secrets"]) | {"EMAIL"}
    assert expand([]) == frozenset()


def test_an_unknown_kind_is_a_configuration_error_that_lists_the_choices() -> None:
    with pytest.raises(TapPassConfigError, match=r"'EMIAL'.*EMAIL"):
        expand(["EMIAL"])
    with pytest.raises(TapPassConfigError):
        Detectors(["nonsense"])


def test_a_finding_never_carries_the_text() -> None:
    (found,) = ALL.find("a@b.co")
    assert "a@b.co" not in repr(found)


def test_importing_the_detectors_loads_no_numbering_plan() -> None:
    code = (
        "import sys; from tappass.engine.detect.detectors import Detectors; "
        "Detectors().inspect({'to': 'acme', 'amount': 120.0}); "
        "assert not {'phonenumbers', 'stdnum', 'sqlalchemy'} & sys.modules.keys(), sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


HOSTILE = (
    "a@", "a@b.", "1", "4111 ", "4111-1111-", "eyJ", "eyJhbGciOjF9.", "-----BEGIN PRIVATE KEY-----\n", "-----",
    "ghp_", "sk-", "AKIA", "a://b:c", "://", "GB12 ", "1.", ":", "a:", "123-45-", "+1 (202) 555 ", "secret ",
    "\u0660", "é", "\u4e2d", ".", "-", " ",
)  # fmt: skip


def work(detector: PatternDetector, text: str) -> int:
    """Count what a detector does beyond one pass over the text: heads it reads, and characters of them."""
    done = 0

    def counted(view: bytes, head: Any) -> Any:
        nonlocal done
        done += 1 + len(head.group())
        return detector.read(view, head)

    for _ in dataclasses.replace(detector, read=counted).spans(fold(text)):
        done += 1
    return done


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("detector", ALL._own, ids=lambda detector: detector.kind)
def test_a_hostile_text_twice_as_long_takes_twice_the_work(detector: PatternDetector, unit: str) -> None:
    once, twice = (work(detector, (unit * n)[:n]) for n in (3_000, 6_000))
    assert twice <= 2.1 * once + 20
    assert twice <= 6_000 * 25


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_text_of_100_kb_is_read_in_bounded_time(unit: str) -> None:
    text = (unit * 100_000)[:100_000]
    began = time.perf_counter()
    ALL.find(text)
    # Generous: a tenth of it is usual, and what backtracks takes minutes.
    assert time.perf_counter() - began < 10


class Shouting:
    kind = "SHOUTING"
    category = "tone"
    max_length = 0

    def find(self, text: str) -> Iterator[Finding]:
        if text.isupper():
            yield Finding(kind="SHOUTING", start=0, end=len(text), category="tone")


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[importlib.metadata.EntryPoint]]:
    entries: list[importlib.metadata.EntryPoint] = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)
    detectors.catalogue.cache_clear()
    yield entries
    detectors.catalogue.cache_clear()


def entry(value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint("extra", value, detectors.GROUP)


def test_a_plug_in_detector_finds_beside_the_built_in_ones(
    plug_in: list[importlib.metadata.EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: Shouting)
    plug_in.append(entry("shouting:Shouting"))
    both = Detectors(["tone", "EMAIL"])
    assert [f.kind for f in both.inspect({"a": "NO!", "b": "a@b.co"})] == ["SHOUTING", "EMAIL"]
    assert both.window() == 0
    assert detectors.window(["tone"]) == 0
    assert detectors.window(["EMAIL"]) == 320 + 8


def test_a_plug_in_that_cannot_be_loaded_is_named(plug_in: list[importlib.metadata.EntryPoint]) -> None:
    plug_in.append(entry("no_such_module:Thing"))
    with pytest.raises(TapPassConfigError, match=r"`extra` \(no_such_module:Thing\)"):
        Detectors()


@pytest.mark.parametrize(("name", "value"), [("kind", 7), ("category", None), ("max_length", -1), ("find", "no")])
def test_a_plug_in_that_is_no_detector_is_named(
    plug_in: list[importlib.metadata.EntryPoint], monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    monkeypatch.setattr(Shouting, name, value)
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: Shouting)
    plug_in.append(entry("shouting:Shouting"))
    with pytest.raises(TapPassConfigError, match=r"`extra`.*lacks one of kind"):
        Detectors()


def test_a_plug_in_may_not_take_a_kind_that_exists(
    plug_in: list[importlib.metadata.EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shouting, "kind", "EMAIL")
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: Shouting)
    plug_in.append(entry("shouting:Shouting"))
    with pytest.raises(TapPassConfigError, match="exists already"):
        Detectors()


@pytest.mark.parametrize("detector", [d for d in catalogue().values() if isinstance(d, PatternDetector)])
def test_nothing_shorter_than_the_shortest_match_holds_one(detector):
    shortest = {"EMAIL": "a@b.co", "IP_ADDRESS": "1.1.1.1"}.get(detector.kind)
    if shortest is not None:
        assert detector.find(shortest), "the shortest example of its kind"
        assert not is_short(shortest)
    for length in range(SHORTEST):
        for piece in (shortest or "4111111111111111"), "sk-ant-abcdef", "::1", "a@b.c", "12345":
            assert not detector.find(piece[:length])
