"""Policy sees exactly what the tool gets: by name, whole, defaults filled, types kept."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import functools
import json
import pathlib
import re
import typing
import uuid
from decimal import Decimal

import attrs
import msgspec
import pydantic
import pytest

from tappass import PolicyBlockError, TapPassConfigError, tappass_session, tool
from tappass.enforcement import projection
from tappass.enforcement.action import action_bytes
from tappass.enforcement.projection import project
from tappass.ext import Interception
from tappass.wire.decisions import Action


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    __slots__ = ()


class Row(typing.NamedTuple):
    a: int
    b: str


@dataclasses.dataclass
class Data:
    to: str
    when: dt.date


@attrs.define
class Attr:
    to: str


class Msg(msgspec.Struct):
    to: str


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    to: str


U = uuid.UUID("12345678123456781234567812345678")

# What stands for each row of the table in projection's docstring.
TABLE = [
    (None, None, {}),
    (True, True, {}),
    ("text ☃", "text ☃", {}),
    (7, 7, {}),
    (1.5, 1.5, {}),
    ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}, {}),
    ([1, [2]], [1, [2]], {}),
    ((1, (2,)), [1, [2]], {"": "tuple", "/1": "tuple"}),
    (Row(1, "x"), [1, "x"], {"": "tuple"}),
    ({3, 1, 2}, [1, 2, 3], {"": "set"}),
    (frozenset({"b", "a"}), ["a", "b"], {"": "set"}),
    ({U}, [str(U)], {"": "set", "/0": "uuid"}),
    (Decimal("120.50"), 120.5, {"": "decimal"}),
    (Decimal("120.0"), 120, {"": "decimal"}),
    (dt.datetime(2026, 1, 31, 9, 30, tzinfo=dt.UTC), "2026-01-31T09:30:00+00:00", {"": "datetime"}),
    (dt.date(2026, 1, 31), "2026-01-31", {"": "date"}),
    (dt.time(9, 30), "09:30:00", {"": "time"}),
    (dt.timedelta(minutes=1, milliseconds=500), 60.5, {"": "timedelta"}),
    (U, str(U), {"": "uuid"}),
    (pathlib.PurePosixPath("/etc/passwd"), "/etc/passwd", {"": "path"}),
    (b"abc", "YWJj", {"": "bytes"}),
    (bytearray(b"abc"), "YWJj", {"": "bytes"}),
    (Colour.RED, "red", {"": "enum:Colour"}),
    (Level.HIGH, 3, {"": "enum:Level"}),
    (Data("a", dt.date(2026, 1, 31)), {"to": "a", "when": "2026-01-31"}, {"": "object:Data", "/when": "date"}),
    (Attr("a"), {"to": "a"}, {"": "object:Attr"}),
    (Msg("a"), {"to": "a"}, {"": "object:Msg"}),
    (Model(to="a", more=1), {"to": "a", "more": 1}, {"": "object:Model"}),
    (Name("ann"), "ann", {"": "str:Name"}),
    (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}, {"": "dict:OrderedDict"}),
    (collections.defaultdict(list, a=[1]), {"a": [1]}, {"": "dict:defaultdict"}),
    ({"a/b": {"c~d": U}}, {"a/b": {"c~d": str(U)}}, {"/a~1b/c~0d": "uuid"}),
]


@pytest.mark.parametrize(("value", "shown", "types"), TABLE, ids=lambda it: type(it).__name__)
def test_a_value_is_shown_as_the_table_says_and_its_type_enters_the_digest(value, shown, types):
    found: dict[str, str] = {}
    assert project(value, "", found, {}) == shown
    assert found == types
    assert json.loads(msgspec.json.encode(project(value, "", {}, {}))) == shown
    if types:
        plain: dict[str, str] = {}
        project(shown, "", plain, {})
        assert digest(shown, plain) != digest(shown, found)


def test_every_type_of_the_documented_table_has_a_case():
    rows = re.findall(r"^\| .*? \| .*? \| (\S.*?)\s*\|$", projection.__doc__, re.M)[2:]
    documented = {name.strip().partition(":")[0] for row in rows for name in re.split("[;,]", row)} - {"…"}
    tested = {kind.partition(":")[0] for _, _, types in TABLE for kind in types.values()}
    assert documented <= tested
    assert {"tuple", "set", "decimal", "uuid", "path", "bytes", "enum", "object"} <= documented


def digest(value, types=None):
    return action_bytes(Action(kind="tool", name="t", arguments={"x": value}, types=types or {}))


def test_numbers_count_by_value_and_nothing_else_is_folded():
    for one, other in ((120, 120.0), (0, -0.0), ([1, {"a": 2}], [1.0, {"a": 2.0}]), (2**53 - 1, float(2**53 - 1))):
        assert digest(one) == digest(other)
    distinct = [1, True, "1", None, "", [], {}, [1], [[1]], {"1": 1}, {"1": "1"}, 1.5, "1.5", 0, False, "null", "true"]
    assert len({digest(value) for value in distinct}) == len(distinct)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


class Iterates(list):
    def __iter__(self):
        return iter(["harmless"])


class Items(dict):
    def items(self):
        return [("to", "harmless")]


class Text(str):
    __slots__ = ()

    def __str__(self):
        return "harmless"


class Pair(tuple):
    __slots__ = ()

    def __iter__(self):
        return iter(["harmless"])


class Group(set):
    def __iter__(self):
        return iter(["harmless"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Iterates(["bad"]), ["bad"]),
        (Items(to="bad"), {"to": "bad"}),
        (Text("bad"), "bad"),
        (Pair(["bad"]), ["bad"]),
        (Group(["bad"]), ["bad"]),
    ],
    ids=lambda it: type(it).__name__,
)
def test_a_subclass_is_shown_as_what_it_holds_not_as_what_it_says(value, shown):
    assert project(value, "", {}, {}) == shown


@dataclasses.dataclass
class ListWithFields(list):
    tag: str = "x"


@dataclasses.dataclass
class TextWithFields(str):
    tag: str = "x"

    def __new__(cls, *_args):
        return super().__new__(cls, "bad")


@pytest.mark.parametrize(
    "value",
    [
        ListWithFields(),
        TextWithFields(),
        Decimal("1e400"),
        Decimal("NaN"),
        Decimal("0.1234567890123456789"),
        ("a", object()),
        Data("a", float("inf")),
        functools.reduce(lambda inner, _: [inner], range(100), []),
    ],
    ids=lambda it: type(it).__name__,
)
def test_what_cannot_be_shown_whole_is_refused_by_name(value, tappass_plane):
    ran = []
    call = tool(name="whole")(lambda value: ran.append(1))
    with pytest.raises(TapPassConfigError, match="`whole` was not run: argument `value` cannot be shown to policy"):
        call(value)
    assert ran == []


def test_a_value_that_contains_itself_is_refused(tappass_plane):
    loop: list = []
    loop.append(loop)
    with pytest.raises(TapPassConfigError, match="contains itself"):
        tool(name="loop")(lambda value: None)(loop)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda bad: bad,
        lambda bad: [[1, [bad]]],
        lambda bad: {"a": {"b": [bad]}},
        lambda bad: {bad: 1},
        lambda bad: (None, 1.5, bad),
        lambda bad: {bad},
        lambda bad: Data(bad, dt.date(2026, 1, 1)),
        lambda bad: Model(to="x", more=[bad]),
        lambda bad: bad.encode(),
        lambda bad: b"\xff\x00" + bad.encode(),
        lambda bad: [bytearray(bad.encode())],
        lambda bad: Name(bad),
        lambda bad: pathlib.PurePosixPath("/x") / bad,
    ],
    ids=["text", "lists", "dicts", "key", "tuple", "set", "object", "extra", "bytes", "binary", "inner", "str", "path"],
)
def test_a_secret_at_the_end_of_200_kb_is_found_wherever_it_stands(wrap, tappass_plane):
    tappass_plane.policy("""
        version: 1
        detect:
          secrets: {arguments: block}
    """)
    ran = []
    send = tool(name="send")(lambda value: ran.append(1))
    secret = "AKIAIOSFODNN7EXAMPLE"
    with pytest.raises(PolicyBlockError) as caught:
        send(wrap("x " * 100_000 + secret))
    assert ran == []
    assert secret not in str(caught.value)


@pytest.mark.parametrize("how", ["positional only", "varargs", "kwargs", "clash", "default", "keyword only"])
def test_a_rule_reads_every_kind_of_argument_by_its_name(how, tappass_plane):
    rules = {
        "positional only": 'args.first.endsWith("bad")',
        "varargs": 'args.rest[1].endsWith("bad")',
        "kwargs": 'args.more.extra.endsWith("bad")',
        "clash": 'args.more.first.endsWith("bad") && args.first == "ok"',
        "default": 'args.style == "default-bad"',
        "keyword only": 'args.only.endsWith("bad")',
    }
    tappass_plane.policy(f"""
        version: 1
        rules:
          - {{id: found, tool: every, when: '{rules[how]}', effect: block}}
    """)
    ran = []

    @tool(name="every")
    def every(first, /, style="default-bad", *rest, only="ok", **more):
        ran.append(first)

    bad = "x" * 200_000 + "bad"
    calls = {
        "positional only": lambda: every(bad, "s"),
        "varargs": lambda: every("ok", "s", "a", bad),
        "kwargs": lambda: every("ok", "s", extra=bad),
        "clash": lambda: every("ok", "s", first=bad),
        "default": lambda: every("ok"),
        "keyword only": lambda: every("ok", "s", only=bad),
    }
    with pytest.raises(PolicyBlockError, match="rule `found`"):
        calls[how]()
    assert ran == []


@pytest.mark.parametrize("value", [None, 1.5, [[1, [None]], []], {"a": {"b": []}}, "", 0, False])
def test_the_tool_gets_what_it_was_given_itself(value, tappass_plane):
    got = []
    tool(name="same")(lambda value: got.append(value))(value)
    assert got[0] is value


REDACT = """
    version: 1
    rules:
      - {id: mask, tool: mask_*, effect: redact, fields: [arguments], kinds: [EMAIL]}
"""


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ("to ann@acme.com", "to [EMAIL]"),
        (["ann@acme.com", 1], ["[EMAIL]", 1]),
        (("ann@acme.com",), ("[EMAIL]",)),
        (Row(1, "ann@acme.com"), Row(1, "[EMAIL]")),
        ({"ann@acme.com": {"x": "bob@acme.com"}}, {"[EMAIL]": {"x": "[EMAIL]"}}),
        (b"to ann@acme.com", b"to [EMAIL]"),
        (bytearray(b"ann@acme.com"), bytearray(b"[EMAIL]")),
        (Data("ann@acme.com", dt.date(2026, 1, 1)), Data("[EMAIL]", dt.date(2026, 1, 1))),
        (Attr("ann@acme.com"), Attr("[EMAIL]")),
        (Msg("ann@acme.com"), Msg("[EMAIL]")),
        (Model(to="ann@acme.com"), Model(to="[EMAIL]")),
        ([{"a": (Msg("ann@acme.com"),)}], [{"a": (Msg("[EMAIL]"),)}]),
    ],
    ids=lambda it: type(it).__name__,
)
def test_arguments_and_results_are_redacted_in_their_own_types(value, clean, tappass_plane):
    tappass_plane.policy(REDACT.replace("[arguments]", "[arguments, result]"))
    got = []
    assert tool(name="mask_back")(lambda value: value)(value) == clean
    tool(name="mask_argument")(lambda value: got.append(value))(value)
    assert got == [clean]
    assert type(got[0]) is type(clean)
    assert tool(name="mask_result")(lambda: value)() == clean


@dataclasses.dataclass
class Checked:
    mail: str

    def __post_init__(self):
        if "@" not in self.mail:
            raise ValueError(f"{self.mail} planted-secret")


@pytest.mark.parametrize(
    "value",
    [
        {"ann@acme.com"},
        Name("ann@acme.com"),
        collections.OrderedDict(a="ann@acme.com"),
        Checked("ann@acme.com"),
        pathlib.PurePosixPath("ann@acme.com"),
        b"\xff ann@acme.com",
        [{"deep": {"ann@acme.com"}}],
    ],
    ids=lambda it: type(it).__name__,
)
def test_what_cannot_be_redacted_in_its_own_type_does_not_reach_the_tool(value, tappass_plane):
    tappass_plane.policy(REDACT)
    ran = []
    with pytest.raises(PolicyBlockError, match="cannot be rebuilt; nothing ran") as caught:
        tool(name="mask_argument")(lambda value: ran.append(1))(value)
    assert ran == []
    assert caught.value.blocked_by == "argument-not-redactable"
    assert "acme" not in str(caught.value) + str(caught.value.__cause__)
    assert "planted" not in str(caught.value)


def test_an_encoders_view_is_never_redacted_in_place_of_the_value(tappass_plane):
    tappass_plane.policy(REDACT)
    ran = []
    for number, encoders in enumerate(({"value": lambda text: text[5:]}, {Name: lambda text: str(text)[5:]})):
        call = tool(name=f"mask_encoded_{number}", encoders=encoders)(lambda value: ran.append(value))
        with pytest.raises(PolicyBlockError, match="inside a value that an encoder shows"):
            call(Name("12345ann@acme.com"))
        call(Name("12345 fine"))
    assert ran == ["12345 fine"] * 2


@pytest.mark.parametrize("name", ["a/b", "c~d", "e~1f", "~key", "g/~key", ""])
def test_an_argument_is_redacted_whatever_a_framework_calls_it(name, tappass_plane):
    tappass_plane.policy(REDACT)
    call = Interception("mask_call", {name: "ann@acme.com", "other": "fine"})
    assert call.before() == {name: "[EMAIL]", "other": "fine"}
    call.after()


def test_an_argument_whose_name_must_be_hidden_blocks(tappass_plane):
    tappass_plane.policy(REDACT)
    with pytest.raises(PolicyBlockError, match="inside a name of an argument") as caught:
        Interception("mask_call", {"ann@acme.com": 1}).before()
    assert "acme" not in str(caught.value)


def test_a_secret_in_bytes_is_stored_masked(tappass_plane, audit_events):
    import base64

    tool(name="upload")(lambda body, more: None)(b"to ann@acme.com", b"plain")
    (event,) = audit_events(type="call.decided")
    body = tappass_plane.plane.engine.store.read.content(event.seq)
    assert msgspec.json.decode(body)["arguments"]["body"] == "to [EMAIL]"
    assert base64.b64encode(b"to ann@acme.com") not in body


def test_many_findings_in_a_large_value_cost_time_in_proportion(tappass_plane):
    import time

    tappass_plane.policy(REDACT.replace("[arguments]", "[result]"))

    def cost(size: int) -> float:
        rows = [{"mail": f"u{i}@acme.com"} for i in range(size)]
        began = time.process_time()
        assert tool(name="mask_rows")(lambda: rows)()[-1] == {"mail": "[EMAIL]"}
        return time.process_time() - began

    cost(100)
    assert cost(8000) < 8000 / 1000 * cost(1000) * 4


def test_equal_actions_share_a_refusal_and_others_ask_again(tappass_plane, audit_events):
    tappass_plane.policy("version: 1\nrules:\n  - {id: no, tool: pay, effect: block}")
    pay = tool(name="pay")(lambda amount, note="": None)

    def asked(*args, **kwargs):
        before = len(audit_events(type="call.decided"))
        with pytest.raises(PolicyBlockError):
            pay(*args, **kwargs)
        return len(audit_events(type="call.decided")) - before

    with tappass_session():
        assert asked(120) == 1
        assert asked(120.0) == asked(amount=120) == asked(120, "") == 0
        assert asked(121) == asked("120") == asked(Decimal(120)) == asked(True) == asked(120, "x") == 1
    with tappass_session():
        assert asked(120) == 1, "another session asks for itself"
    assert asked(1) == asked(1) == 1, "the implicit session latches nothing"


def test_a_session_remembers_no_more_refusals_than_it_may(tappass_plane):
    from tappass.enforcement.latch import LIMIT

    tappass_plane.policy("version: 1\nrules:\n  - {id: no, tool: pay, effect: block}")
    pay = tool(name="pay")(lambda amount: None)
    with tappass_session() as session:
        for amount in range(LIMIT + 20):
            with pytest.raises(PolicyBlockError):
                pay(amount)
        assert len(session.latch._known) == LIMIT
