"""`govern([...])` takes and returns ADK's own tools: same type, same schema, decided on every path."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.tools import (
    AgentTool,
    BaseTool,
    FunctionTool,
    LongRunningFunctionTool,
    ToolContext,
    google_search,
)
from google.genai import types

from tappass import ApprovalRequired, PolicyBlockError, TapPassConfigError, govern, tappass_session
from tests.adapters.google_adk.gemini import calls, says
from tests.adapters.google_adk.mail import IN, OUT, PAY, Tools, awaited, ended, mailer, results, runner_of


@pytest.fixture
def tools():
    return Tools()


class Own(BaseTool):
    """A tool of the user's own kind."""

    def __init__(self, noting: Tools) -> None:
        super().__init__(name="send", description="Send a mail.")
        self.noting = noting

    def _get_declaration(self) -> Any:
        to = types.Schema(type=types.Type.STRING)
        schema = types.Schema(type=types.Type.OBJECT, properties={"to": to}, required=["to"])
        return types.FunctionDeclaration(name=self.name, description=self.description, parameters=schema)

    async def run_async(self, *, args: dict[str, Any], tool_context: Any) -> Any:
        self.noting.ran.append(("send", args["to"]))
        return {"sent": args["to"]}


MADE = {
    "FunctionTool": lambda tools: FunctionTool(tools.functions[0]),
    "LongRunningFunctionTool": lambda tools: LongRunningFunctionTool(tools.functions[0]),
    "BaseTool": Own,
}


@pytest.fixture(params=MADE)
def made(request, tools):
    return MADE[request.param](tools)


def test_type_and_schema_are_unchanged_and_the_tool_itself_is_untouched(made, here):
    before = dict(vars(made))
    (governed,) = govern([made])
    assert type(governed) is type(made)
    assert governed is not made
    assert (governed.name, governed.description) == (made.name, made.description)
    assert governed._get_declaration() == made._get_declaration()
    assert vars(made) == before
    assert govern([governed]) == [governed]


def test_a_governed_tool_is_decided_without_a_guard(made, plane, model, tools):
    runner = runner_of(mailer(tools, tools=govern([made])))
    model.add(calls(IN), says("Done."))
    with tappass_session(name="mine"):
        awaited(runner)
        assert tools.ran == [("send", "ann@acme.com")]
        model.add(calls(OUT))
        with pytest.raises(PolicyBlockError, match="inside"):
            awaited(runner)
    assert tools.ran == [("send", "ann@acme.com")]
    assert [e.outcome for e in plane.events(type="call.decided")] == ["allow", "block"]


def test_arguments_and_results_are_redacted(here, model, tools):
    runner = runner_of(mailer(tools, tools=govern([FunctionTool(tools.functions[2])])))
    model.add(calls(("look", {"text": "ann@acme.com"})), says("Done."))
    assert results(awaited(runner)) == [{"found": "[EMAIL] [EMAIL]"}]
    assert tools.ran == [("look", "[EMAIL]")]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_of_a_governed_tool_is_governed(copied, here, model):
    tools = Tools()
    (governed,) = govern([FunctionTool(tools.functions[0])])
    model.add(calls(OUT))
    with pytest.raises(PolicyBlockError):
        awaited(runner_of(mailer(tools, tools=[copied(governed)])))
    agent = mailer(tools, tools=[governed])
    model.add(calls(OUT))
    with pytest.raises(PolicyBlockError):
        awaited(runner_of(agent.clone()))
    assert tools.ran == []


def test_the_function_in_a_governed_tool_is_governed_too(here, tools):
    send, pay = govern([FunctionTool(f) for f in tools.functions[:2]])
    assert send.func(to="ann@acme.com") == "sent to ann@acme.com"
    with pytest.raises(PolicyBlockError):
        send.func("eve@evil.example")
    with pytest.raises(ApprovalRequired):
        asyncio.run(pay.func(amount=5))
    assert tools.ran == [("send", "ann@acme.com")]


def test_what_adk_injects_is_not_shown_to_policy(here, model, tools):
    def note(text: str, tool_context: ToolContext, **more: Any) -> str:
        """Note something."""
        tools.ran.append((text, tool_context.agent_name if tool_context else None, more))
        return "noted"

    (governed,) = govern([FunctionTool(note)])
    model.add(calls(("note", {"text": "x"})), says("Done."))
    awaited(runner_of(mailer(tools, tools=[governed])))
    assert governed.func("y", None, colour="red") == "noted"
    assert tools.ran == [("x", "mailer", {}), ("y", None, {"colour": "red"})]
    assert [n for n, _ in ended(here)] == ["note", "note"]


def test_an_agent_that_is_a_tool_is_governed_as_a_tool(here, model, tools):
    clerk = LlmAgent(name="clerk", model="gemini-2.5-flash", instruction="clerk", tools=[])
    here.policy("version: 1\nrules:\n  - {id: alone, tool: clerk, when: 'args.request == \"no\"', effect: block}")
    runner = runner_of(mailer(tools, tools=govern([AgentTool(clerk)])))
    model.add(calls(("clerk", {"request": "yes"})), says("Said."), says("Done."))
    awaited(runner)
    assert ended(here) == [("clerk", "completed")]
    seen = len(model.seen)
    model.add(calls(("clerk", {"request": "no"})))
    with pytest.raises(PolicyBlockError, match="alone"):
        awaited(runner)
    assert len(model.seen) == seen + 1


def test_an_approval_of_a_governed_tool_is_raised_without_a_guard(here, model, tools):
    model.add(calls(PAY))
    with pytest.raises(ApprovalRequired):
        awaited(runner_of(mailer(tools, tools=govern([FunctionTool(tools.functions[1])]))))
    assert tools.ran == []


def test_what_cannot_be_governed_is_refused_by_name():
    def count(to: int) -> Any:
        """Count."""
        yield from range(to)

    with pytest.raises(TapPassConfigError, match="`google_search` is run where the model is"):
        govern([google_search])
    with pytest.raises(TapPassConfigError, match="`count` is a generator"):
        govern([FunctionTool(count)])


def test_functions_for_an_agent_stay_functions(here, model, tools):
    send, *_ = govern(tools.functions)
    assert callable(send)
    model.add(calls(OUT))
    with pytest.raises(PolicyBlockError):
        awaited(runner_of(mailer(tools, tools=[send])))
    assert tools.ran == []
