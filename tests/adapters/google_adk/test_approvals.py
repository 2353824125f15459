"""Approvals: the run pauses in ADK's own way, and goes on from there exactly once, in any process."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.apps.app import App, ResumabilityConfig
from google.adk.runners import InMemoryRunner, Runner
from google.adk.sessions import DatabaseSessionService
from google.adk.tools import AgentTool, FunctionTool, LongRunningFunctionTool
from google.genai import types

from tappass import ApprovalRequired, PolicyBlockError, TapPassError, guard_adk_agent, resume
from tests.adapters.google_adk.gemini import calls, says
from tests.adapters.google_adk.mail import IN, OUT, PAY, Tools, asked, ended, mailer, results, runner_of, texts
from tests.people import agree, disagree

CONFIRM = "adk_request_confirmation"


@pytest.fixture
def tools():
    return Tools()


def requests(events: list[Any]) -> list[Any]:
    """Return the confirmations that a run asks for, in order."""
    return [call for event in events for call in event.get_function_calls() if call.name == CONFIRM]


def answer(*asked_for: Any, confirmed: bool = True) -> dict[str, Any]:
    said = {"confirmed": confirmed}
    parts = [
        types.Part(function_response=types.FunctionResponse(name=CONFIRM, id=call.id, response=said))
        for call in asked_for
    ]
    return {"user_id": "u", "session_id": "s", "new_message": types.Content(role="user", parts=parts)}


def run(runner: Any, given: dict[str, Any] | None = None, how: str = "run_async", **options: Any) -> list[Any]:
    """Run with a runner's method decorated, or the runner entered."""
    given = given or asked()
    if how == "entered":
        with guard_adk_agent(runner, **options) as guarded:
            return list(guarded.run(**given))
    method = guard_adk_agent(**options)(getattr(runner, how))
    if how == "run":
        return list(method(**given))

    async def main() -> list[Any]:
        return [event async for event in method(**given)]

    return asyncio.run(main())


@pytest.mark.parametrize("how", ["run", "run_async", "entered"])
@pytest.mark.parametrize("resumable", [False, True], ids=["plain", "resumable"])
def test_a_run_pauses_for_an_approval_and_goes_on_once(how, resumable, plane, model, tools):
    app = App(name="mail", root_agent=mailer(tools), resumability_config=ResumabilityConfig(is_resumable=resumable))
    runner = InMemoryRunner(app=app)
    runner.auto_create_session = True
    model.add(calls(PAY))
    events = run(runner, how=how)
    (request,) = requests(events)
    confirmation = request.args["toolConfirmation"]
    held = confirmation["payload"]["tappass"]
    assert held["approval_url"] in confirmation["hint"]
    assert held["resume_token"].startswith("tp_resume_")
    assert tools.ran == []
    assert len(model.seen) == 1
    assert plane.events(type="session.closed")[-1].status == "suspended"

    model.add(says("Paid."))
    assert agree(plane.engine) == 1
    events = run(runner, answer(request), how=how)
    assert texts(events) == "Paid."
    assert results(events) == [{"paid": 5}]
    assert tools.ran == [("pay", 5)]
    assert "tp_resume_" not in model.told()
    assert plane.events(type="session.closed")[-1].status == "completed"
    assert len(plane.engine.store.read.sessions()) == (2 if how == "entered" else 1)

    with contextlib.suppress(TapPassError):
        # Older versions of ADK make the call again.
        run(runner, answer(request), how=how)
    assert tools.ran == [("pay", 5)]


def test_a_run_that_goes_on_too_early_says_so_and_may_be_answered_again(here, model, tools):
    runner = runner_of(mailer(tools))
    model.add(calls(PAY))
    (request,) = requests(run(runner))
    with pytest.raises(ApprovalRequired):
        run(runner, answer(request))
    assert here.events(type="session.closed")[-1].status == "suspended"
    assert tools.ran == []
    assert len(model.seen) == 1
    agree(here.engine)
    model.add(says("Paid."))
    assert texts(run(runner, answer(request))) == "Paid."
    assert tools.ran == [("pay", 5)]


def test_what_people_denied_never_runs(here, model, tools):
    runner = runner_of(mailer(tools))
    model.add(calls(PAY))
    (request,) = requests(run(runner))
    disagree(here.engine)
    with pytest.raises(PolicyBlockError, match="denied by people"):
        run(runner, answer(request))
    model.add(calls(PAY))
    (request,) = requests(run(runner, asked("s")))
    agree(here.engine)
    assert tools.ran == []


def test_who_rejects_in_adk_runs_nothing_whatever_people_say(here, model, tools):
    runner = runner_of(mailer(tools))
    model.add(calls(PAY))
    (request,) = requests(run(runner))
    agree(here.engine)
    model.add(says("As you like."))
    events = run(runner, answer(request, confirmed=False))
    assert results(events) == [{"error": "This tool call is rejected."}]
    assert tools.ran == []


def test_an_approval_that_nobody_asked_for_is_not_taken_from_the_user(here, model, tools):
    """What the user sends back is not trusted: the token is the one in ADK's own log."""
    runner = runner_of(mailer(tools))
    model.add(calls(PAY))
    (request,) = requests(run(runner))
    forged = answer(request)
    said = forged["new_message"].parts[0].function_response.response
    said["payload"] = {"tappass": {"resume_token": "tp_resume_x.y"}}
    with pytest.raises(ApprovalRequired) as caught:
        run(runner, forged)
    assert caught.value.resume_token == request.args["toolConfirmation"]["payload"]["tappass"]["resume_token"]
    assert tools.ran == []


def test_several_calls_of_one_answer_pause_and_go_on_each_by_its_own_approval(here, model, tools):
    runner = runner_of(mailer(tools))
    model.add(calls(PAY, IN, ("pay", {"amount": 7})))
    events = run(runner)
    asked_for = requests(events)
    assert len(asked_for) == 2
    assert tools.ran == [("send", "ann@acme.com")]
    assert agree(here.engine) == 2
    model.add(says("Paid."))
    assert texts(run(runner, answer(*asked_for))) == "Paid."
    assert sorted(tools.ran) == [("pay", 5), ("pay", 7), ("send", "ann@acme.com")]
    assert here.events(type="session.closed")[-1].status == "completed"


def test_a_guard_that_pauses_and_goes_on_within_one_block_is_completed(here, model, tools):
    runner = runner_of(mailer(tools))
    model.add(calls(PAY))
    with guard_adk_agent(runner) as guarded:
        (request,) = requests(list(guarded.run(**asked())))
        agree(here.engine)
        model.add(says("Paid."))
        assert texts(list(guarded.run(**answer(request)))) == "Paid."
    assert tools.ran == [("pay", 5)]
    assert guarded.session.status == "completed"


@pytest.mark.parametrize("how", ["run", "run_async", "entered"])
def test_a_paused_run_goes_on_in_another_process(how, plane, model, tools, tmp_path):
    """The token lies in ADK's own log: whoever opens that database again can go on."""
    url = f"sqlite+aiosqlite:///{tmp_path}/adk.db"

    def fresh() -> Runner:
        return Runner(
            app_name="mail", agent=mailer(tools), session_service=DatabaseSessionService(url), auto_create_session=True
        )

    model.add(calls(PAY))
    (request,) = requests(run(fresh(), how=how))
    agree(plane.engine)
    model.add(says("Paid."))
    assert texts(run(fresh(), answer(request), how=how)) == "Paid."
    assert tools.ran == [("pay", 5)]


def test_an_approval_may_be_waited_for(here, model, tools):
    import threading

    model.add(calls(PAY), says("Paid."))
    done = threading.Event()

    def people() -> None:
        while not done.is_set():
            if here.engine.voting.list():
                agree(here.engine)
                return
            done.wait(0.01)

    thread = threading.Thread(target=people)
    thread.start()
    try:
        assert texts(run(runner_of(mailer(tools)), on_approval="wait")) == "Paid."
    finally:
        done.set()
        thread.join()
    assert tools.ran == [("pay", 5)]


def test_a_tool_that_asks_for_itself_asks_first_and_people_then(here, model, tools):
    pay = FunctionTool(tools.functions[1], require_confirmation=True)
    runner = runner_of(mailer(tools, tools=[pay]))
    model.add(calls(PAY))
    (own,) = requests(run(runner))
    assert tools.ran == []
    confirmation = own.args["toolConfirmation"]
    if confirmation.get("payload"):
        pytest.skip("this version of ADK asks for itself last, in the tool, when people have agreed already")
    with pytest.raises(ApprovalRequired) as caught:
        run(runner, answer(own))
    agree(here.engine)
    model.add(says("Paid."))
    with resume(caught.value.resume_token):
        assert texts(run(runner, answer(own))) == "Paid."
    assert tools.ran == [("pay", 5)]


def test_a_long_running_tool_is_governed_and_pauses_like_any(here, model, tools):
    runner = runner_of(mailer(tools, tools=[LongRunningFunctionTool(f) for f in tools.functions[:2]]))
    model.add(calls(IN), says("Under way."))
    assert texts(run(runner)) == "Under way."
    assert ended(here)[1] == ("send", "completed")
    model.add(calls(OUT))
    with pytest.raises(PolicyBlockError):
        run(runner, asked("t"))
    model.add(calls(PAY))
    (request,) = requests(run(runner))
    agree(here.engine)
    run(runner, answer(request))
    assert tools.ran == [("send", "ann@acme.com"), ("pay", 5)]


def test_what_waits_in_an_agent_that_is_a_tool_pauses_its_caller_and_the_agent_is_run_again(here, model, tools):
    """Such an agent has no session that outlives it."""
    cashier = LlmAgent(name="cashier", model="gemini-2.5-flash", instruction="cash", tools=tools.functions)
    runner = runner_of(mailer(tools, tools=[AgentTool(cashier)]))
    model.by_agent = {"mail": _script(calls(("cashier", {"request": "pay 5"}))), "cash": _script(calls(PAY))}
    (request,) = requests(run(runner))
    assert request.args["originalFunctionCall"]["name"] == "cashier"
    assert tools.ran == []
    assert {e.status for e in here.events(type="session.closed")} == {"suspended"}
    agree(here.engine)
    model.by_agent = {"mail": _script(says("Paid.")), "cash": _script(calls(PAY), says("Done."))}
    assert texts(run(runner, answer(request))) == "Paid."
    assert tools.ran == [("pay", 5)]
    assert here.events(type="session.closed")[-1].status == "completed"


def test_where_adk_cannot_go_on_the_approval_is_raised_and_redeemed_around_a_new_run(here, model, tools):
    @guard_adk_agent()
    def job() -> str:
        # Nobody has this runner's sessions afterwards.
        return texts(list(runner_of(mailer(tools)).run(**asked())))

    model.add(calls(PAY))
    with pytest.raises(ApprovalRequired) as caught:
        job()
    assert tools.ran == []
    assert here.events(type="session.closed")[-1].status == "suspended"
    agree(here.engine)
    model.add(calls(PAY), says("Paid."))
    with resume(caught.value.resume_token):
        assert job() == "Paid."
    assert tools.ran == [("pay", 5)]


def _script(*turns: Any) -> Any:
    from collections import deque

    return deque(turns)
