"""Graphs that pause for approvals: each approval is its own call's, none is lost, and the log says how it ended."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_tool_call
from langchain_core.messages import ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from tappass import ApprovalRequired, govern, guard_agent, guard_agent_async
from tests.adapters.langchain.mail import ASK, IN, Mail, chat
from tests.adapters.scripted import calls
from tests.people import agree

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PAY, PAY_MORE = ("pay", {"amount": 5}), ("pay", {"amount": 6})
THREAD = {"configurable": {"thread_id": "1"}}
GO = Command(resume="go on")


def statuses(audit_events: Any) -> list[str]:
    return [e.status for e in audit_events(type="session.closed")]


def test_two_held_calls_of_a_turn_go_on_each_by_its_own_approval(plane, model):
    mail = Mail()
    run = guard_agent()(create_agent(chat(model), mail.tools(), checkpointer=InMemorySaver()).invoke)
    model.play(calls(PAY, PAY_MORE))
    state = run(ASK, THREAD)
    first, second = state["__interrupt__"]
    assert agree(plane.plane.engine) == 2
    state = run(Command(resume={first.id: "go on", second.id: "go on"}), THREAD)
    assert "__interrupt__" not in state
    assert sorted(mail.ran) == [5, 6]


def test_an_interrupt_that_is_not_resumed_waits_on_although_people_agreed(plane, model):
    mail = Mail()
    run = guard_agent()(create_agent(chat(model), mail.tools(), checkpointer=InMemorySaver()).invoke)
    model.play(calls(PAY, PAY_MORE))
    first, second = run(ASK, THREAD)["__interrupt__"]
    assert agree(plane.plane.engine) == 2
    (left,) = run(Command(resume={first.id: "go on"}), THREAD)["__interrupt__"]
    assert left.id == second.id
    assert len(mail.ran) == 1
    run(Command(resume={second.id: "go on"}), THREAD)
    assert sorted(mail.ran) == [5, 6]


def test_what_answers_an_approval_answers_no_interrupt_of_the_tools_own(plane, model):
    answers: list[Any] = []

    def pay(amount: int) -> str:
        """Pay."""
        answers.append(interrupt("are you sure?"))
        return "paid"

    run = guard_agent()(create_agent(chat(model), [pay], checkpointer=InMemorySaver()).invoke)
    model.play(calls(PAY))
    run(ASK, THREAD)
    assert agree(plane.plane.engine) == 1
    (pending,) = run(GO, THREAD)["__interrupt__"]
    assert pending.value == "are you sure?"
    assert answers == []


def test_a_block_whose_graph_was_paused_and_resumed_ends_as_completed(plane, model, audit_events):
    mail = Mail()
    graph = create_agent(chat(model), mail.tools(), checkpointer=InMemorySaver())
    model.play(calls(PAY))
    with guard_agent(graph) as guarded:
        guarded.invoke(ASK, THREAD)
        assert agree(plane.plane.engine) == 1
        guarded.invoke(GO, THREAD)
    assert mail.ran == [5]
    assert statuses(audit_events) == ["completed"]


def test_a_graph_with_its_config_built_in_goes_on_in_its_session(plane, model, audit_events):
    mail = Mail()
    graph = create_agent(chat(model), mail.tools(), checkpointer=InMemorySaver()).with_config(THREAD)
    run = guard_agent()(graph.invoke)
    model.play(calls(PAY))
    run(ASK)
    assert agree(plane.plane.engine) == 1
    run(GO)
    assert mail.ran == [5]
    assert len({e.session_id for e in audit_events(type="session.closed")}) == 1


@wrap_tool_call
def swallowing(request: Any, handler: Any) -> Any:
    try:
        return handler(request)
    except Exception:
        return ToolMessage("it failed", tool_call_id=request.tool_call["id"])


@pytest.mark.parametrize("last", [False, True], ids=["the model goes on", "the tool is the last step"])
def test_an_interrupt_that_was_swallowed_on_its_way_is_brought_back(last, plane, model, audit_events):
    mail = Mail()
    tools = mail.tools()
    for tool in tools:
        tool.return_direct = last
    graph = create_agent(chat(model), tools, checkpointer=InMemorySaver(), middleware=[swallowing])
    model.play(calls(PAY))
    with pytest.raises(ApprovalRequired):
        guard_agent()(graph.invoke)(ASK, THREAD)
    assert len(model.seen) == 1
    assert mail.ran == []
    assert statuses(audit_events) == ["suspended"]


def test_tools_that_were_governed_beforehand_pause_the_graph_as_well(plane, model):
    mail = Mail()
    run = guard_agent()(create_agent(chat(model), govern(mail.tools()), checkpointer=InMemorySaver()).invoke)
    model.play(calls(PAY))
    assert run(ASK, THREAD)["__interrupt__"]
    assert agree(plane.plane.engine) == 1
    run(GO, THREAD)
    assert mail.ran == [5]


class AsyncOnly(InMemorySaver):
    """Keeps checkpoints where only async code can look, as those of databases do."""

    def get_tuple(self, config: Any) -> Any:
        raise asyncio.InvalidStateError("synchronous calls are not allowed here")

    async def aget_tuple(self, config: Any) -> Any:
        return InMemorySaver.get_tuple(self, config)


@pytest.mark.parametrize("streamed", [False, True], ids=["ainvoke", "astream"])
def test_an_entered_graph_goes_on_from_a_checkpointer_that_is_async_only(streamed, plane, model, audit_events):
    mail = Mail()

    async def main() -> None:
        graph = create_agent(chat(model), mail.tools(), checkpointer=AsyncOnly())
        model.play(calls(PAY))
        async with guard_agent_async(graph) as guarded:
            await guarded.ainvoke(ASK, THREAD)
            assert agree(plane.plane.engine) == 1
            if streamed:
                assert [item async for item in guarded.astream(GO, THREAD)]
            else:
                await guarded.ainvoke(GO, THREAD)

    anyio.run(main)
    assert mail.ran == [5]
    assert statuses(audit_events) == ["completed"]


def test_an_allowed_call_beside_a_held_one_runs_once(plane, model):
    mail = Mail()
    run = guard_agent()(create_agent(chat(model), mail.tools(), checkpointer=InMemorySaver()).invoke)
    model.play(calls(PAY, IN))
    run(ASK, THREAD)
    assert agree(plane.plane.engine) == 1
    run(GO, THREAD)
    assert mail.ran == ["ann@acme.com", 5]


def test_a_graph_that_is_retried_pauses_and_goes_on(plane, model):
    mail = Mail()
    graph = create_agent(chat(model), mail.tools(), checkpointer=InMemorySaver())
    run = guard_agent()(graph.with_retry(stop_after_attempt=1).invoke)
    model.play(calls(PAY))
    assert run(ASK, THREAD)["__interrupt__"]
    assert agree(plane.plane.engine) == 1
    run(GO, THREAD)
    assert mail.ran == [5]
