"""What is too large to be read is refused, never cut; and what was not read is not stored as if it had been."""

from __future__ import annotations

import json

import pytest

from tappass import PolicyBlockError, TapPassConfigError, tappass_session, tool
from tappass.engine.detect.detectors import Detectors

SMALL = "[limits]\nargument_bytes = 100\n"


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_arguments_beyond_the_limit_are_refused_on_record_and_not_stored(mode, tappass_plane, audit_events):
    ran = []
    send = tool(name="send_much")(lambda text: ran.append(len(text)))
    tappass_plane.policy("version: 1\nallow_observe: true\n")
    tappass_plane.settings(SMALL)
    with tappass_session(mode=mode):
        send("x" * 80)
        with pytest.raises(PolicyBlockError) as caught:
            send("ann@acme.com" * 10)
    assert ran == [80]
    assert caught.value.blocked_by == "limits.argument_bytes"
    assert "its arguments have 131 bytes, and the setting `limits.argument_bytes` allows 100" in str(caught.value)
    assert "ann@" not in str(caught.value)
    decided = audit_events(type="call.decided")[-1]
    assert (decided.outcome, decided.blocked_by, decided.content) == ("block", "limits.argument_bytes", None)


def test_what_a_detector_failed_on_is_not_stored_unmasked(tappass_plane, audit_events, monkeypatch):
    read = tool(name="read_unread")(lambda text: text)
    tappass_plane.policy("version: 1\ndetect: {pii: {result: redact}}")
    with tappass_session():
        read("a@acme.com")
        for fails in (lambda value: "/text" in str(value) or "text" in value, lambda value: isinstance(value, str)):
            inspect = Detectors.inspect

            def broken(self, value, *rest, fails=fails, inspect=inspect):
                if fails(value):
                    raise RuntimeError("broken")
                return inspect(self, value, *rest)

            with monkeypatch.context() as patched, pytest.raises(PolicyBlockError, match="detector"):
                patched.setattr(Detectors, "inspect", broken)
                read("ann@acme.com")
    store = tappass_plane.plane.engine.store
    store.flush()
    bodies = [json.loads(body) for (body,) in store.read.query("SELECT body FROM leaf WHERE body IS NOT NULL")]
    assert "acme.com" not in json.dumps(bodies)


def test_an_integer_that_cannot_be_written_down_is_refused_by_name(tappass_plane, audit_events):
    count = tool(name="count_far")(lambda n: n)
    assert count(10**4000) == 10**4000
    for far in (10**5000, -(10**5000)):
        with pytest.raises(TapPassConfigError, match=r"argument `n` cannot be shown to policy .*too many digits"):
            count(far)
    assert len(audit_events(type="call.decided")) == 1


def test_a_condition_that_reads_a_number_beyond_64_bits_blocks(tappass_plane):
    count = tool(name="count_near")(lambda n: n)
    tappass_plane.policy("""
        version: 1
        rules: [{id: few, tool: count_near, when: args.n > 5, effect: block}]
    """)
    assert count(1) == 1
    for far in (2**63, -(2**64), 10**30):
        with pytest.raises(PolicyBlockError) as caught:
            count(far)
        assert caught.value.blocked_by == "few"
