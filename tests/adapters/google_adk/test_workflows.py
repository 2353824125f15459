"""Workflows of nodes: a tool that is a node is decided like any, and so are the agents that are nodes."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from google.adk.tools import FunctionTool
from google.adk.workflow import START, Workflow

from tappass import ApprovalRequired, PolicyBlockError, guard_adk_agent, resume
from tests.adapters.google_adk.gemini import calls, says
from tests.adapters.google_adk.mail import IN, OUT, PAY, Tools, ended, mailer, sync
from tests.people import agree


@pytest.fixture
def tools():
    return Tools()


def workflow(tools: Tools, call: tuple[str, dict[str, Any]], *rest: Any) -> Workflow:
    """Return a workflow that makes one call, then goes on."""

    def first() -> dict[str, Any]:
        return call[1]

    (function,) = [one for one in tools.functions if one.__name__ == call[0]]
    return Workflow(name="office", edges=[(START, first, FunctionTool(function), *rest)])


def outputs(target: Any, **options: Any) -> list[Any]:
    with guard_adk_agent(target, **options) as guarded:
        return [event.output for event in sync(guarded)]


def test_a_tool_that_is_a_node_is_decided_and_redacted(here, model, tools):
    assert outputs(workflow(tools, IN))[-1] == "sent to ann@acme.com"
    found = outputs(workflow(tools, ("look", {"text": "ask ann@acme.com"})))
    assert found[-1] == {"found": "ask [EMAIL] [EMAIL]"}
    with pytest.raises(PolicyBlockError, match="inside"):
        outputs(workflow(tools, OUT))
    assert tools.ran == [("send", "ann@acme.com"), ("look", "ask [EMAIL]")]
    assert ended(here) == [("send", "completed"), ("look", "completed"), ("send", "")]
    assert here.events(type="session.closed")[-1].status == "failed"


def test_a_node_that_waits_for_people_ends_the_run_and_is_redeemed_around_a_new_one(here, model, tools):
    def after(node_input: Any) -> str:
        tools.ran.append("after")
        return "done"

    target = workflow(tools, PAY, after)
    with pytest.raises(ApprovalRequired) as held:
        outputs(target)
    assert tools.ran == []
    assert here.events(type="session.closed")[-1].status == "suspended"
    agree(here.engine)
    with resume(held.value.resume_token):
        assert outputs(target)[-1] == "done"
    assert tools.ran == [("pay", 5), "after"]


def test_an_agent_that_is_a_node_is_governed_in_a_session_of_its_own(here, model, tools):
    clerk = mailer(tools, name="clerk", instruction="clerk-script")
    model.by_agent = {"clerk-script": deque([calls(IN), says("Done.")])}

    def first() -> str:
        return "go"

    outputs(Workflow(name="office", edges=[(START, first, clerk)]))
    assert tools.ran == [("send", "ann@acme.com")]
    names = {s.session_id: s.name for s in here.engine.store.read.sessions()}
    made = [(names[e.session_id], e.name) for e in here.events(type="call.decided") if e.kind == "tool"]
    assert made == [("clerk", "send")]
    model.by_agent = {"clerk-script": deque([calls(OUT)])}
    with pytest.raises(PolicyBlockError):
        outputs(Workflow(name="office", edges=[(START, first, clerk)]))
    assert len(tools.ran) == 1
