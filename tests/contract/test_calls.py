"""Deciding, running, settling: what holds for every governed call."""

from __future__ import annotations

from textwrap import dedent

import pytest

from tappass import PolicyBlockError, RedactionApplied, TapPassConfigError, current_session

BLOCK_OUTSIDE = """
    version: 1
    rules:
      - id: mail-stays-inside
        tool: send_email
        when: '!args.to.endsWith("@acme.com")'
        effect: block
        classification: CONFIDENTIAL
"""


def test_an_allowed_call_runs_and_leaves_a_decision_and_an_ending(plane, face):
    async def scenario():
        pay = face.tool(lambda amount: amount * 2, name="pay")
        async with face.session(name="books") as session:
            assert await face.call(pay, 21) == 42
            return session

    session = face.run(scenario)
    assert session.status == "completed"
    decided, ended = plane.events(type="call.decided")[-1], plane.events(type="call.ended")[-1]
    assert decided.task_id == ended.task_id
    assert (decided.outcome, decided.name, ended.status) == ("allow", "pay", "completed")
    for event in (decided, ended):
        for field in ("session_id", "agent_uuid", "pipeline_uuid", "audit_url"):
            assert getattr(event, field) == getattr(session, field) != ""
    assert [e.type for e in plane.events(session_id=session.session_id)] == [
        "session.opened",
        "call.decided",
        "call.ended",
        "session.closed",
    ]


def test_a_blocked_tool_never_runs(plane, face):
    plane.policy(BLOCK_OUTSIDE)
    ran = []

    async def scenario():
        send = face.tool(lambda to: ran.append(to), name="send_email")
        async with face.session():
            await face.call(send, "ann@acme.com")
            with pytest.raises(PolicyBlockError) as caught:
                await face.call(send, "eve@evil.example")
            return caught.value

    error = face.run(scenario)
    assert ran == ["ann@acme.com"]
    assert error.blocked_by == "mail-stays-inside"
    assert error.classification == "CONFIDENTIAL"
    assert "`send_email` blocked by rule `mail-stays-inside` (policy.yaml:3)" in str(error)
    assert "nothing ran" in str(error)
    assert error.audit_url in str(error)
    assert "eve@evil.example" not in str(error)
    assert [e.outcome for e in plane.events(type="call.decided")] == ["allow", "block"]


def test_a_blocked_tool_never_runs_under_a_loop_that_swallows_and_retries(plane, face):
    plane.policy(BLOCK_OUTSIDE)
    ran = []

    async def scenario():
        send = face.tool(lambda to: ran.append(to), name="send_email")
        async with face.session():
            refusals = set()
            for _ in range(20):
                try:
                    await face.call(send, to="eve@evil.example")
                except Exception as error:
                    refusals.add(error.task_id)
            assert len(refusals) == 1, "the same call gets the same answer"

    face.run(scenario)
    assert ran == []
    assert len(plane.events(type="call.decided")) == 1, "a latched refusal is not asked again"


def test_a_blocked_stream_never_starts(plane, face):
    plane.policy(BLOCK_OUTSIDE)
    ran = []

    def body(to):
        ran.append(to)
        yield to

    async def scenario():
        send = face.tool(body, name="send_email")
        async with face.session():
            with pytest.raises(PolicyBlockError):
                await face.items(send, "eve@evil.example")

    face.run(scenario)
    assert ran == []


def test_a_call_outside_any_session_belongs_to_the_implicit_one(plane, face):
    async def scenario():
        assert current_session() is None
        await face.call(face.tool(lambda: 1, name="one"))
        assert current_session() is None

    face.run(scenario)
    (decided,) = plane.events(type="call.decided")
    opened = plane.events(type="session.opened", session_id=decided.session_id)
    assert [e.kind for e in opened] == ["implicit"]


def test_an_error_of_the_tool_comes_out_as_it_is_and_is_settled_as_failed(plane, face):
    class Own(Exception):
        pass

    error = Own("mine")

    def fail():
        raise error

    async def scenario():
        with pytest.raises(Own) as caught:
            await face.call(face.tool(fail, name="fail"))
        assert caught.value is error

    face.run(scenario)
    (ended,) = plane.events(type="call.ended")
    assert (ended.status, ended.error_type) == ("failed", "Own")


def test_a_result_is_redacted_before_anybody_sees_it(plane, face):
    plane.policy("""
        version: 1
        rules:
          - {id: mask, tool: crm_*, effect: redact, fields: [result], kinds: [EMAIL]}
    """)

    async def scenario():
        look_up = face.tool(lambda: {"name": "Ann", "mail": ["ann@acme.com", 3]}, name="crm_get")
        return await face.call(look_up)

    assert face.run(scenario) == {"name": "Ann", "mail": ["[EMAIL]", 3]}
    (ended,) = plane.events(type="call.ended")
    assert ended.findings == ("EMAIL:1",)


def test_an_argument_is_redacted_before_the_tool_gets_it(plane, face):
    plane.policy("""
        version: 1
        rules:
          - {id: mask, tool: note, effect: redact, fields: [arguments], kinds: [EMAIL]}
    """)
    got = []

    async def scenario():
        note = face.tool(lambda text, *, tags=(), **more: got.append((text, tags, more)), name="note")
        await face.call(note, "write to ann@acme.com", tags=["x", "bob@acme.com"], text_="eve@acme.com")

    face.run(scenario)
    assert got == [("write to [EMAIL]", ["x", "[EMAIL]"], {"text_": "[EMAIL]"})]


def test_raise_on_redaction_raises_instead(plane, face):
    plane.policy("""
        version: 1
        rules:
          - {id: mask, tool: crm_*, effect: redact, fields: [result], kinds: [EMAIL]}
    """)

    async def scenario():
        look_up = face.tool(lambda: "mail ann@acme.com", name="crm_get", raise_on_redaction=True)
        with pytest.raises(RedactionApplied) as caught:
            await face.call(look_up)
        return caught.value

    error = face.run(scenario)
    assert error.redacted_content == "mail [EMAIL]"
    assert [(r.kind, r.start, r.end) for r in error.redactions] == [("EMAIL", 5, 17)]
    assert "ann@" not in str(error)


def test_a_streamed_result_is_redacted_across_pieces(plane, face):
    plane.policy("""
        version: 1
        rules:
          - {id: mask, tool: read, effect: redact, fields: [result], kinds: [EMAIL]}
    """)

    def body():
        yield from ("write to a", "nn@ac", "me.com", " or not")

    async def scenario():
        return await face.items(face.tool(body, name="read"))

    items = face.run(scenario)
    assert "".join(items) == "write to [EMAIL] or not"
    (ended,) = plane.events(type="call.ended")
    assert (ended.status, ended.findings) == ("completed", ("EMAIL:1",))


def test_what_policy_cannot_see_is_refused_and_does_not_run(plane, face):
    ran = []

    async def scenario():
        send = face.tool(lambda value: ran.append(value), name="send")
        for value, why in ((float("nan"), "nan"), (float("inf"), "inf"), (object(), "object"), ({1: 2}, "int")):
            with pytest.raises(TapPassConfigError, match="argument `value`") as caught:
                await face.call(send, value)
            assert why in str(caught.value)

    face.run(scenario)
    assert ran == []


def test_an_encoder_shows_policy_what_has_no_projection(plane, face):
    plane.policy("""
        version: 1
        rules:
          - {id: big, tool: pay, when: args.money.cents > 100, effect: block}
    """)

    class Money:
        def __init__(self, cents):
            self.cents = cents

    async def scenario():
        pay = face.tool(lambda money: money.cents, name="pay", encoders={Money: lambda m: {"cents": m.cents}})
        assert await face.call(pay, Money(100)) == 100
        with pytest.raises(PolicyBlockError):
            await face.call(pay, Money(101))

    face.run(scenario)


def test_observe_needs_the_policys_leave(plane, face):
    async def scenario():
        with pytest.raises(TapPassConfigError, match="allow_observe"):
            async with face.session(mode="observe"):
                raise AssertionError("not entered")

    face.run(scenario)


def test_observe_decides_and_records_but_lets_the_call_run(plane, face):
    plane.policy("allow_observe: true\n" + dedent(BLOCK_OUTSIDE))
    ran = []

    async def scenario():
        send = face.tool(lambda to: ran.append(to), name="send_email")
        async with face.session(mode="observe"):
            await face.call(send, "eve@evil.example")

    face.run(scenario)
    assert ran == ["eve@evil.example"]
    (decided,) = plane.events(type="call.decided")
    assert (decided.outcome, decided.would_be, decided.mode) == ("allow", "block", "observe")
    assert decided.rules == ("mail-stays-inside",)


def test_nested_sessions_are_children_and_restore_what_was_there(plane, face):
    async def scenario():
        async with face.session(name="outer") as outer:
            async with face.session(name="inner") as inner:
                assert current_session() is inner
                assert inner.parent == outer.session_id
            assert current_session() is outer
        assert current_session() is None

    face.run(scenario)
    assert len(plane.events(type="session.closed", status="completed")) == 2


def test_a_session_that_raises_closes_as_failed(plane, face):
    async def scenario():
        with pytest.raises(ZeroDivisionError):
            async with face.session():
                _ = 1 / 0

    face.run(scenario)
    assert [e.status for e in plane.events(type="session.closed")] == ["failed"]


def test_a_streams_items_stay_apart_under_redaction(plane, face):
    names = [f"user{n}" for n in range(4)]

    def body():
        yield from names

    async def scenario():
        return await face.items(face.tool(body, name="list_users"))

    plane.policy("version: 1\ndetect: {pii: {result: redact}, secrets: {result: redact}}")
    assert face.run(scenario) == names


def test_a_stream_that_is_withheld_says_what_ran_which_setting_and_where_the_record_is(plane, face):
    plane.policy("version: 1\ndetect: {pii: {result: block}}")

    def body():
        yield from ("write to a", "nn@ac", "me.com", " or not")

    async def scenario():
        with pytest.raises(PolicyBlockError) as caught:
            await face.items(face.tool(body, name="read"))
        return caught.value

    error = face.run(scenario)
    assert error.blocked_by == "detect.pii.result"
    assert error.ran
    assert "`read` ran, but its stream is withheld: it holds EMAIL" in str(error)
    assert error.audit_url
    assert error.audit_url in str(error)
    (decided,) = plane.events(type="call.decided")
    assert error.task_id == decided.task_id


def test_an_error_about_a_result_says_that_the_call_ran(plane, face):
    async def scenario(**options):
        read = face.tool(lambda: "mail ann@acme.com", name="read")
        async with face.session(**options):
            with pytest.raises((PolicyBlockError, RedactionApplied)) as caught:
                await face.call(read)
        return caught.value

    plane.policy("version: 1\ndetect: {pii: {result: block}}")
    assert face.run(scenario).ran is True
    plane.policy("version: 1\ndetect: {pii: {result: redact}}")
    assert face.run(lambda: scenario(raise_on_redaction=True)).ran is True


@pytest.mark.parametrize("streamed", [False, True])
def test_the_ending_says_whether_the_result_was_masked(plane, face, streamed):
    def body():
        yield from ("write to a", "nn@ac", "me.com", " or call 10.0.0.1")

    async def scenario(name):
        if streamed:
            return "".join(await face.items(face.tool(body, name=name)))
        return await face.call(face.tool(lambda: "".join(body()), name=name))

    plane.policy("""
        version: 1
        rules:
          - {id: mask, tool: masked, effect: redact, fields: [result], kinds: [EMAIL]}
        detect: {pii: {result: flag}}
    """)
    assert face.run(lambda: scenario("masked")) == "write to [EMAIL] or call 10.0.0.1"
    assert "ann@" in face.run(lambda: scenario("flagged"))
    masked, flagged = plane.events(type="call.ended")
    assert masked.findings == flagged.findings == ("EMAIL:1", "IP_ADDRESS:1")
    assert (masked.obligations, masked.details) == (("redact_result",), {"masked": "EMAIL"})
    assert (flagged.obligations, flagged.details) == ((), {})


def test_a_rule_for_a_session_holds_in_the_sessions_beneath_it(plane, face):
    plane.policy("version: 1\nrules:\n  - {id: no, session: payroll*, tool: pay_out, effect: block}")
    ran = []
    pay = face.tool(lambda: ran.append(1), name="pay_out")

    async def scenario():
        async with face.session(name="payroll-may"), face.session(name="helper"), face.session(name="deeper"):
            with pytest.raises(PolicyBlockError, match="no"):
                await face.call(pay)
        async with face.session(name="helper"):
            await face.call(pay)

    face.run(scenario)
    assert ran == [1]
