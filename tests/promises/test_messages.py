"""What we say, raise and write into leaves holds no payload, and no control character of anybody's."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pickle
import traceback

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tappass import (
    PolicyBlockError,
    RedactionApplied,
    TapPassConfigError,
    TapPassError,
    tappass_session,
    tool,
)
from tappass.enforcement.verdicts import printable
from tappass.ext import Interception, unit
from tappass.testing import memory_plane

POLICY = """
    version: 1
    rules:
      - {id: block, tool: 'block*', effect: block, classification: SECRET}
      - {id: cond, tool: 'cond*', when: 'args.value.missing.deeper == 1', effect: block}
      - {id: number, tool: 'number*', when: 'int(args.value) > 1', effect: block}
      - {id: stamp, tool: 'stamp*', when: 'timestamp(args.value) > now', effect: block}
      - {id: mask, tool: 'mask*', effect: redact, fields: [arguments, result], kinds: [EMAIL]}
    detect:
      secrets: {arguments: block, result: block}
"""


@dataclasses.dataclass
class Holder:
    value: str

    def __post_init__(self):
        if "[" in self.value:
            raise ValueError(self.value)


class Secretive:
    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return self.value

    __str__ = __repr__


def situations(secret: str):
    """Yield calls that must fail, each with the secret somewhere in what it is given or gives back."""
    mail = f"{secret}@acme.com"
    key = f"AKIAIOSFODNN7EXAMPLE {secret}"
    for name in ("block", "cond", "number", "stamp"):
        call = tool(name=f"{name}_it")(lambda value: value)
        yield lambda call=call: call(secret)
        yield lambda call=call: call({secret: [secret]})
    mask = tool(name="mask_it")(lambda value: value)
    keep = tool(name="keep_it")(lambda value: value)
    for bad in (
        {mail},
        Holder(mail),
        {secret: object()},
        [Secretive(secret)],
        {(secret,): 1},
        {secret: float("nan")},
        {secret: "\ud800"},
        f"{secret}\ud800",
        Secretive(secret),
        b"\xff" + mail.encode(),
    ):
        yield lambda bad=bad: mask(bad)
    yield lambda: keep(key)
    yield lambda: keep({key: 1})
    for number, result in enumerate((key, {key: key}, [Holder(key)], {mail}, Secretive(secret))):
        give = tool(name=f"mask_result_{number}")(lambda result=None: result)
        yield lambda give=give, result=result: tool(name="mask_give")(lambda: result)()
    raising = tool(name="mask_raising", raise_on_redaction=True)(lambda value: "fine")
    yield lambda: raising(mail)
    stream = tool(name="mask_stream")(_stream)
    yield lambda: list(stream([secret, " ", key]))
    yield lambda: list(stream([{secret: key}]))
    yield lambda: Interception("mask_hook", {mail: 1}).before()
    yield lambda: tappass_session(metadata={"x": {secret: object()}}).open()
    yield lambda: tappass_session(mode=secret[:0] + "watch", metadata={"x": secret}).open()


def _stream(items=()):
    yield from items


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=12, max_size=40).map(lambda text: f"zq{text}qz"))
def test_no_error_and_no_leaf_holds_what_was_given_or_returned(secret):
    with memory_plane(POLICY) as plane:
        count = 0
        for fails in situations(secret):
            with pytest.raises(TapPassError) as caught:
                fails()
            count += 1
            error = caught.value
            said = [str(error), repr(error), *map(str, error.args), str(getattr(error, "reason", ""))]
            said += [str(getattr(error, "blocked_by", "")), "".join(traceback.format_exception_only(error))]
            cause = error.__cause__
            if not error.__suppress_context__:
                cause = cause or error.__context__
            said.append(str(cause))
            assert not [text for text in said if secret in text], said
        assert count > 25
        for event in plane.events():
            assert secret not in msgspec.json.encode(event).decode()


HOSTILE = ["send\nFAKE: allowed", "\x1b[31mred", "a\u202eb", "x" * 100_000, "nul\0byte", "tab\there", "\u2028line"]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_tool_name_is_governed_and_cannot_forge_a_line(name, tappass_plane, audit_events, capfd):
    tappass_plane.policy("version: 1\ndefault: block\n")
    errors = []
    call = tool(name=name)(lambda value="x": pytest.fail("ran"))
    for attempt in (
        call,
        lambda: call(object()),
        lambda: list(tool(name=name + "s")(_stream)()),
        Interception(name, {name: "x"}).before,
        Interception(name, {name: object()}).before,
    ):
        with pytest.raises((PolicyBlockError, TapPassConfigError)) as caught:
            attempt()
        errors.append(str(caught.value))
    for message in errors:
        assert message.isprintable(), ascii(message)
        assert len(message) < 1500
    assert {e.name for e in audit_events(type="call.decided")} == {name, name + "s"}
    assert capfd.readouterr().err == ""


def test_a_name_that_is_no_unicode_is_refused(tappass_plane):
    with pytest.raises(TapPassConfigError, match="its name cannot be shown to policy"):
        tool(name="bad\ud800")(lambda: None)()


@pytest.mark.parametrize(
    ("name", "said"),
    [("plain", "plain"), ("mit Umlaut ä", "mit Umlaut ä"), ("a\nb", "a\\nb"), ("y" * 300, "y" * 200)],
)
def test_a_name_is_said_so_that_it_fits_a_line(name, said):
    assert printable(name) == said


def test_every_refusal_survives_copies_with_everything_it_says(tappass_plane):
    tappass_plane.policy(POLICY)
    caught = []
    for call in (
        lambda: tool(name="block_copy")(lambda: None)(),
        lambda: tool(name="mask_copy", raise_on_redaction=True)(lambda: "ann@acme.com")(),
    ):
        with pytest.raises((PolicyBlockError, RedactionApplied)) as error:
            call()
        caught.append(error.value)
    for error in caught:
        for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
            assert type(twin) is type(error)
            assert str(twin) == str(error)
            assert vars(twin) == vars(error)
            assert twin.correlation == error.correlation
            assert all(msgspec.structs.astuple(twin.correlation))


def test_a_guards_unit_brings_the_refusal_back_with_its_own_traceback(tappass_plane):
    tappass_plane.policy(POLICY)
    send = tool(name="block_unit")(lambda: None)
    with pytest.raises(PolicyBlockError) as caught, unit("run", "crew"), contextlib.suppress(PolicyBlockError):
        send()
    assert "block_unit" in str(caught.value)
