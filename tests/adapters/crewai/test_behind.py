"""What CrewAI runs where it calls no hook is decided and settled all the same."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from crewai import Crew, Task
from crewai.flow.flow import Flow
from crewai.flow.runtime._actions import ToolAction
from crewai.tools import BaseTool
from crewai.tools.tool_failure import ToolExecutionFailedError
from pydantic import BaseModel

from tappass import ApprovalRequired, PolicyBlockError, govern, guard_crew, resume
from tests.adapters.crewai.crews import Ran, agent, llm
from tests.people import agree

# CrewAI leaves the sockets of its clients to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SHAPES = """
    version: 1
    rules:
      - {id: mask, llm: '*', effect: redact, fields: [result], kinds: [EMAIL]}
"""


class Found(BaseModel):
    """Who was found."""

    who: str


def crew(script: Any, **output: Any) -> Crew:
    # With tools CrewAI does not ask the agent's model for a shape, but puts its answer into one afterwards.
    clerk = agent(llm(script), Ran().tools())
    task = Task(name="look", description="look", expected_output="who", agent=clerk, **output)
    return Crew(name="office", agents=[clerk], tasks=[task])


def shaped(body: dict[str, Any]) -> Any:
    """Answer in the shape that is asked for: by a tool call, or by a text."""
    if body.get("tool_choice"):
        return [(body["tools"][0]["function"]["name"], {"who": "bob@acme.com"})]
    return '{"who": "bob@acme.com"}'


@pytest.mark.parametrize("output", ["output_json", "output_pydantic"])
def test_an_answer_that_is_put_into_a_shape_is_redacted_or_refused_and_on_record(
    output, tappass_plane, audit_events, script
):
    script.says("it was Bob", shaped)
    result = guard_crew()(crew(script, **{output: Found}).kickoff)()
    assert (result.json_dict or result.pydantic.model_dump()) == {"who": "bob@acme.com"}
    endings = [(e.status, e.model, e.tokens) for e in audit_events(type="call.ended")]
    assert endings == [("completed", "gpt-4o-mini", (11, 7))] * 2
    tappass_plane.policy(SHAPES)
    script.says("it was Bob", shaped)
    kickoff = guard_crew()(crew(script, **{output: Found}).kickoff)
    if output == "output_json":
        assert kickoff().json_dict == {"who": "[EMAIL]"}
    else:
        with pytest.raises(PolicyBlockError, match="cannot be given another"):
            kickoff()


@pytest.mark.parametrize("output", ["output_json", "output_pydantic"])
def test_a_model_that_puts_answers_into_a_shape_is_decided(output, tappass_plane, audit_events, script):
    tappass_plane.policy("""
        version: 1
        rules:
          - {id: no-bob, llm: '*', when: 'args.prompt.contains("it was Bob")', effect: block}
    """)
    script.says("it was Bob", shaped)
    with pytest.raises(PolicyBlockError, match="no-bob"):
        guard_crew()(crew(script, **{output: Found}).kickoff)()
    assert len(script.asked) == 1
    assert audit_events(type="session.closed")[-1].status == "failed"


ASKED: dict[str, Any] = {
    "call": lambda model: model.call("who?"),
    "acall": lambda model: asyncio.run(model.acall("who?")),
    "call for a shape": lambda model: model.call("who?", response_model=Found),
    "acall for a shape": lambda model: asyncio.run(model.acall("who?", response_model=Found)),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("way", ASKED)
def test_a_model_that_code_asks_itself_is_settled_in_every_way(way, stream, tappass_plane, audit_events, script):
    def work() -> str:
        return str(ASKED[way](llm(script, stream=stream)))

    script.says('{"who": "bob@acme.com"}')
    assert "bob@acme.com" in guard_crew()(work)()
    assert [(e.status, e.tokens) for e in audit_events(type="call.ended")] == [("completed", (11, 7))]
    tappass_plane.policy(SHAPES)
    script.says('{"who": "bob@acme.com"}')
    if way == "call":
        assert "[EMAIL]" in guard_crew()(work)()
    else:
        with pytest.raises(PolicyBlockError, match="cannot be given another"):
            guard_crew()(work)()


# Tools that a declared flow runs.


class Send(BaseTool):
    name: str = "Send"
    description: str = "Send a message."

    def _run(self, to: str, text: str = "hello") -> str:
        RAN.append((to, text))
        return f"sent to {to}"


class Governed(BaseTool):
    """Makes a governed one of itself, as a flow makes its tools without arguments."""

    name: str = "Send"
    description: str = "Send a message."

    def __new__(cls) -> Any:
        return govern([Send()])[0]

    def _run(self) -> None:
        raise AssertionError


RAN: list[Any] = []
DECLARED = """
schema: crewai.flow/v1
name: office
methods:
  go:
    start: true
    do:
      call: tool
      ref: %s:%s
      with: {to: %s}
"""


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


def declared(to: str, made: str = "Send") -> Any:
    assert sys.modules[__name__]
    return Flow.from_declaration(contents=DECLARED % (__name__, made, to))


def decided(audit_events: Any) -> list[tuple[str, str]]:
    return [(event.name, event.outcome) for event in audit_events(type="call.decided") if event.kind == "tool"]


def test_a_tool_that_a_flow_declares_is_decided(plane, audit_events):
    before = ToolAction.run
    assert guard_crew()(declared("ann@acme.com").kickoff)() == "sent to ann@acme.com"
    with pytest.raises(PolicyBlockError, match="inside"):
        guard_crew()(declared("eve@evil.example").kickoff)()
    with pytest.raises(ToolExecutionFailedError, match="Not done: "):
        guard_crew(on_block="tell")(declared("eve@evil.example").kickoff)()
    assert RAN == [("ann@acme.com", "hello")]
    assert decided(audit_events) == [("send", "allow"), ("send", "block"), ("send", "block")]
    assert ToolAction.run is before


def test_a_tool_that_a_flow_declares_gets_redacted_arguments(tappass_plane):
    tappass_plane.policy("""
        version: 1
        rules:
          - {id: mask, tool: send, effect: redact, fields: [arguments, result], kinds: [EMAIL]}
    """)
    assert guard_crew()(declared("ann@acme.com").kickoff)() == "sent to [EMAIL]"
    assert RAN == [("[EMAIL]", "hello")]


def test_a_tool_that_a_flow_declares_waits_for_people_and_runs_once(tappass_plane):
    tappass_plane.policy("version: 1\nrules:\n  - {id: ask, tool: send, effect: require_approval}")
    with pytest.raises(ApprovalRequired) as held:
        guard_crew()(declared("ann@acme.com").kickoff)()
    assert RAN == []
    agree(tappass_plane.plane.engine)
    for _ in range(2):
        with resume(held.value.resume_token):
            kickoff = guard_crew()(declared("ann@acme.com").kickoff)
            if RAN:
                with pytest.raises(ApprovalRequired):
                    kickoff()
            else:
                assert kickoff() == "sent to ann@acme.com"
    assert len(RAN) == 1
