"""Approvals: a call waits for people, and runs exactly once if they agree."""

from __future__ import annotations

import threading
from textwrap import dedent

import anyio
import pytest

from tappass import Agent, ApprovalRequired, AsyncAgent, PolicyBlockError, TapPassConfigError, resume
from tappass.engine.approver import Approver
from tappass.wire.ids import SYSTEM_CLOCK, rfc3339
from tests.people import agree, voter

ASK = """
    version: 1
    rules:
      - {id: big, tool: pay, when: args.amount > 1000, effect: require_approval, expires_in: 1h, message: two eyes}
"""


def person(plane, name: str) -> Approver:
    return voter(plane.engine, name)


def voting(plane):
    return plane.engine.voting


def pay_on(face, ran):
    def pay(amount: int, to: str = "acme") -> str:
        ran.append((amount, to))
        return f"paid {amount}"

    return face.tool(pay)


async def ask(face, pay, *args, **kwargs) -> ApprovalRequired:
    with pytest.raises(ApprovalRequired) as caught:
        async with face.session(name="payments"):
            await face.call(pay, *args, **kwargs)
    return caught.value


async def resumed(face, token, pay, *args, **kwargs):
    if face.backend == "sync":
        with resume(token) as session:
            result = pay(*args, **kwargs)
    else:
        async with resume(token) as session:
            result = await pay(*args, **kwargs)
    return session, result


def test_a_held_call_does_not_run_and_its_session_is_suspended(plane, face):
    plane.policy(ASK)
    ran = []

    async def scenario():
        return await ask(face, pay_on(face, ran), 5000)

    error = face.run(scenario)
    assert ran == []
    assert error.approval_url.rpartition("/")[2] in error.resume_token
    assert error.expires_at > "2026"
    assert "rule `big` (policy.yaml:3)" in str(error)
    assert [e.status for e in plane.events(type="session.closed")] == ["suspended"]
    (asked,) = plane.events(type="approval.requested")
    (decided,) = plane.events(type="call.decided")
    assert decided.outcome == "needs_approval"
    assert decided.approval_id == asked.approval_id != ""


def test_people_see_exactly_what_will_run_and_it_runs_once_in_its_own_session(plane, face):
    plane.policy(ASK)
    ran = []

    async def scenario():
        pay = pay_on(face, ran)
        error = await ask(face, pay, 5000)
        (held,) = voting(plane).list()
        assert held.action["arguments"] == {"amount": 5000, "to": "acme"}
        assert held.message == "two eyes"
        assert voting(plane).approve(held.approval_id, person(plane, "ann"), "known supplier").state == "approved"
        session, result = await resumed(face, error.resume_token, pay, 5000)
        assert result == "paid 5000"
        assert session.session_id == error.session_id
        with pytest.raises(PolicyBlockError, match="was used already"):
            await resumed(face, error.resume_token, pay, 5000)

    face.run(scenario)
    assert ran == [(5000, "acme")]
    kinds = [e.type for e in plane.events() if e.approval_id]
    assert kinds == [
        "approval.requested",
        "call.decided",
        "approval.voted",
        "approval.granted",
        "approval.redeemed",
        "call.decided",
    ]
    assert [e.actor for e in plane.events(type="approval.granted")] == ["ann"]


def test_other_arguments_and_another_definition_are_refused_each_with_its_message(plane, face):
    plane.policy(ASK)
    ran = []

    async def scenario():
        pay = pay_on(face, ran)
        error = await ask(face, pay, 5000)
        voting(plane).approve(voting(plane).list()[0].approval_id, person(plane, "ann"), "ok")
        with pytest.raises(PolicyBlockError, match="other arguments"):
            await resumed(face, error.resume_token, pay, 5001)

        def pay_again(amount: int, to: str = "acme", *, memo: str = "") -> str:
            ran.append(amount)
            return "other code"

        del pay
        from tappass.toolspec import release_names

        release_names()
        changed = face.tool(pay_again, name="pay")
        with pytest.raises(PolicyBlockError, match=r"other arguments|definition changed"):
            await resumed(face, error.resume_token, changed, 5000)

    face.run(scenario)
    assert ran == []


@pytest.mark.parametrize("token", ["", "nonsense", "tp_resume_apr_1.0", "tp_resume_apr_01a2.0123456789abcdef"])
def test_a_forged_token_is_refused(plane, face, token):
    plane.policy(ASK)

    async def scenario():
        with pytest.raises(TapPassConfigError, match="not issued by this plane"):
            await resumed(face, token, pay_on(face, []), 5000)

    face.run(scenario)


def test_a_denial_is_final_for_that_call(plane, face):
    plane.policy(ASK)
    ran = []

    async def scenario():
        pay = pay_on(face, ran)
        error = await ask(face, pay, 5000)
        voting(plane).deny(voting(plane).list()[0].approval_id, person(plane, "ann"), "never")
        with pytest.raises(PolicyBlockError, match="denied by people") as caught:
            await resumed(face, error.resume_token, pay, 5000)
        assert caught.value.blocked_by == "approval-denied"

    face.run(scenario)
    assert ran == []


def test_two_of_two_means_two_people(plane, face):
    plane.policy(dedent(ASK).replace("expires_in: 1h", "expires_in: 1h, approvers: 2"))
    ran = []

    async def scenario():
        pay = pay_on(face, ran)
        error = await ask(face, pay, 5000)
        (held,) = voting(plane).list()
        assert voting(plane).approve(held.approval_id, person(plane, "ann"), "one").state == "pending"
        with pytest.raises(TapPassConfigError, match="each person counts once"):
            voting(plane).approve(held.approval_id, person(plane, "ann"), "again")
        with pytest.raises(ApprovalRequired):
            await resumed(face, error.resume_token, pay, 5000)
        assert voting(plane).approve(held.approval_id, person(plane, "bob"), "two").state == "approved"
        assert (await resumed(face, error.resume_token, pay, 5000))[1] == "paid 5000"

    face.run(scenario)
    assert ran == [(5000, "acme")]


def test_the_requester_cannot_approve(plane, face):
    plane.policy(ASK)

    async def scenario():
        async with face.session(agent=plane.agent):
            pass
        plane.engine.store.run(lambda tx: tx.execute("UPDATE agent SET registered_by = 'ann'"))
        with pytest.raises(ApprovalRequired):
            async with face.session(agent=plane.agent):
                await face.call(pay_on(face, []), 5000)

    face.run(scenario)
    (held,) = voting(plane).list()
    with pytest.raises(TapPassConfigError, match="nobody approves their own request"):
        voting(plane).approve(held.approval_id, person(plane, "ann"), "me")
    assert voting(plane).approve(held.approval_id, person(plane, "bob"), "fine").state == "approved"


def test_a_hard_block_that_came_later_wins_and_a_changed_rule_asks_again(plane, face):
    plane.policy(ASK)
    ran = []

    async def scenario():
        pay = pay_on(face, ran)
        error = await ask(face, pay, 5000)
        voting(plane).approve(voting(plane).list()[0].approval_id, person(plane, "ann"), "ok")
        plane.policy(dedent(ASK).replace("two eyes", "four eyes"))
        with pytest.raises(ApprovalRequired) as again:
            await resumed(face, error.resume_token, pay, 5000)
        assert again.value.resume_token != error.resume_token
        voting(plane).approve(voting(plane).list()[0].approval_id, person(plane, "ann"), "ok")
        plane.policy(dedent(ASK) + "  - {id: frozen, tool: pay, effect: block}\n")
        with pytest.raises(PolicyBlockError) as caught:
            await resumed(face, again.value.resume_token, pay, 5000)
        assert caught.value.blocked_by == "frozen"

    face.run(scenario)
    assert ran == []


def test_the_identical_call_redeems_the_approval_within_its_session(plane, face):
    plane.policy(ASK)
    ran = []

    async def scenario():
        pay = pay_on(face, ran)
        async with face.session():
            for _ in range(3):
                with pytest.raises(ApprovalRequired):
                    await face.call(pay, 5000)
            (held,) = voting(plane).list()
            voting(plane).approve(held.approval_id, person(plane, "ann"), "ok")
            assert await face.call(pay, 5000.0) == "paid 5000.0"
            with pytest.raises(ApprovalRequired):
                await face.call(pay, 5000)

    face.run(scenario)
    assert len(ran) == 1
    assert len(plane.events(type="approval.requested")) == 2


@pytest.mark.parametrize("vote", ["approve", "deny"])
def test_a_waiting_call_goes_on_when_people_have_decided(plane, face, vote):
    plane.policy(ASK)
    ran = []
    ann = person(plane, "ann")

    def decide():
        while not (held := voting(plane).list()):
            pass
        getattr(voting(plane), vote)(held[0].approval_id, ann, "said")

    async def scenario():
        pay = pay_on(face, ran)
        thread = threading.Thread(target=decide)
        thread.start()
        try:
            async with face.session(on_approval="wait", approval_timeout_s=30):
                if vote == "deny":
                    with pytest.raises(PolicyBlockError, match="denied by people"):
                        await face.call(pay, 5000)
                else:
                    assert await face.call(pay, 5000) == "paid 5000"
        finally:
            thread.join()

    face.run(scenario)
    assert len(ran) == (vote == "approve")


def test_waiting_ends_with_approval_required_when_time_is_up(plane, face):
    plane.policy(ASK)

    async def scenario():
        pay = face.tool(lambda amount: amount, name="pay", on_approval="wait", approval_timeout_s=0.05)
        with pytest.raises(ApprovalRequired):
            async with face.session():
                await face.call(pay, 5000)

    face.run(scenario)


def test_who_waits_no_time_at_all_hears_how_an_approval_stands(plane, face):
    plane.policy(ASK)

    async def stands(token):
        live = plane.plane
        return live.sync.wait(token, 0) if face.backend == "sync" else await live.aio.wait(token, 0)

    async def scenario():
        held = await ask(face, pay_on(face, []), 5000)
        assert await stands(held.resume_token) == "pending"
        assert agree(plane.engine) == 1
        assert await stands(held.resume_token) == "approved"

    face.run(scenario)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_wait_can_be_cancelled_and_the_approval_stays(plane, backend):
    from tappass import tappass_session_async, tool

    plane.policy(ASK)

    @tool
    async def pay(amount: int) -> int:
        return amount

    async def main():
        async def cancel_once_held():
            while not voting(plane).list():  # noqa: ASYNC110
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(cancel_once_held)
            async with tappass_session_async(on_approval="wait"):
                await pay(5000)
        assert group.cancel_scope.cancelled_caught

    anyio.run(main, backend=backend)
    assert [held.state for held in voting(plane).list()] == ["pending"]


def test_chat_is_held_and_resumed_as_tools_are(plane, face):
    from tests.fake_model import FakeModel, text

    with FakeModel(default=text("done")) as model:
        plane.policy("version: 1\nrules:\n  - {id: ask, llm: '*', effect: require_approval}\n")
        settings = f'[[upstream]]\nmatch = "*"\nbase_url = "{model.base_url}"\n'
        plane.settings(settings)

        async def chat():
            return Agent().chat("hello") if face.backend == "sync" else await AsyncAgent().chat("hello")

        async def scenario():
            with pytest.raises(ApprovalRequired) as caught:
                async with face.session():
                    await chat()
            assert model.seen == []
            voting(plane).approve(voting(plane).list()[0].approval_id, person(plane, "ann"), "ok")
            if face.backend == "sync":
                with resume(caught.value.resume_token):
                    return await chat()
            async with resume(caught.value.resume_token):
                return await chat()

        assert str(face.run(scenario)) == "done"
        assert len(model.seen) == 1


def swallow(send, *args, tries: int = 3) -> None:
    """Call as a framework does that turns every error into text and tries again."""
    for _ in range(tries):
        try:
            send(*args)
        except Exception:
            continue


def test_an_approval_that_a_framework_swallowed_comes_back_when_the_guards_unit_ends(plane):
    from tappass import tool
    from tappass.ext import unit

    plane.policy(ASK)
    ran = []

    @tool
    def pay(amount: int) -> None:
        ran.append(amount)

    with pytest.raises(ApprovalRequired), unit("run", "crew"):
        swallow(pay, 5000)
    assert ran == []
    assert [e.status for e in plane.events(type="session.closed")] == ["suspended"]


def test_in_a_plain_session_the_users_own_except_stands(plane):
    from tappass import tappass_session, tool

    plane.policy(ASK)

    @tool
    def pay(amount: int) -> None: ...

    with tappass_session():
        swallow(pay, 5000)
    assert [e.status for e in plane.events(type="session.closed")] == ["completed"]


def test_a_guard_brings_nothing_back_once_the_held_call_has_run(plane):
    from tappass import tool
    from tappass.ext import unit

    plane.policy(ASK)
    ran = []

    @tool
    def pay(amount: int) -> None:
        ran.append(amount)

    with unit("run", "crew"):
        swallow(pay, 5000)
        (held,) = voting(plane).list()
        voting(plane).approve(held.approval_id, person(plane, "ann"), "ok")
        swallow(pay, 5000, tries=1)
    assert ran == [5000]
    assert [e.status for e in plane.events(type="session.closed")] == ["completed"]


def test_a_waiting_call_whose_approval_expires_is_refused_and_does_not_run(plane, face):
    plane.policy(dedent(ASK).replace("expires_in: 1h", "expires_in: 1s"))
    ran = []

    async def scenario():
        pay = pay_on(face, ran)
        with pytest.raises(PolicyBlockError, match="has expired") as caught:
            async with face.session(on_approval="wait"):
                await face.call(pay, 5000)
        assert caught.value.blocked_by == "approval-expired"

    face.run(scenario)
    assert ran == []
    assert len(plane.events(type="approval.expired")) == 1


@pytest.mark.parametrize("state", ["pending", "approved"])
def test_an_approval_that_ran_out_of_time_is_refused(plane, face, state):
    plane.policy(dedent(ASK).replace("expires_in: 1h", "expires_in: 1s"))
    ran = []

    async def scenario():
        pay = pay_on(face, ran)
        error = await ask(face, pay, 5000)
        if state == "approved":
            voting(plane).approve(voting(plane).list()[0].approval_id, person(plane, "ann"), "ok")
        while rfc3339(SYSTEM_CLOCK.time_ns()) < error.expires_at:
            await anyio.sleep(0.05) if face.backend != "sync" else threading.Event().wait(0.05)
        with pytest.raises(PolicyBlockError, match="has expired"):
            await resumed(face, error.resume_token, pay, 5000)

    face.run(scenario)
    assert ran == []
