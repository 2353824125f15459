"""What a governed tool call costs in a framework, beside the same run without a guard, and beside the plane's own cost.

    scripts/setup frameworks crewai
    .venv-frameworks/bin/python -m tests.bench.bench_guards
    .venv-crewai/bin/python -m tests.bench.bench_guards

A framework that is not installed is left out. Each run makes `CALLS` tool calls; governed and ungoverned runs take
turns, and the medians are compared. "Over the plane" is what is left of the difference once the decision and the
settling of a plain governed function are taken off.
"""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tappass import tappass_session, tool
from tappass.session.registry import registry

CALLS, ROUNDS = 200, 9

Run = Callable[[bool], None]


def langchain() -> Run:
    """An agent's tool, invoked as a ToolNode does, inside a guard and without one."""
    from langchain_core.messages import AIMessage
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    from tappass import guard_agent

    def look(text: str) -> str:
        """Look."""
        return text

    wanted = [{"name": "look", "args": {"text": f"n{number}"}, "id": f"c{number}"} for number in range(CALLS)]
    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode([look]))
    builder.add_edge(START, "tools")
    builder.add_edge("tools", END)
    graph = builder.compile()
    guarded = guard_agent()(graph.invoke)
    state: Any = {"messages": [AIMessage("", tool_calls=wanted)]}
    return lambda governed: (guarded if governed else graph.invoke)(state)  # type: ignore[return-value]


def crewai() -> Run:
    """A crew's tool, called as a model asks for it, the model in this process."""
    import json

    from crewai import Agent, Crew, Task
    from crewai.llms.base_llm import BaseLLM
    from crewai.tools import tool as crew_tool

    from tappass import guard_crew

    @crew_tool("look", max_usage_count=10**9)  # counted tools are called one by one
    def look(text: str) -> str:
        """Look."""
        return text

    class Model(BaseLLM):
        def call(self, messages: Any, tools: Any = None, *_: Any, **__: Any) -> Any:
            if any(message["role"] == "tool" for message in messages):
                return "the end"
            asked = [{"name": "look", "arguments": json.dumps({"text": f"n{number}"})} for number in range(CALLS)]
            return [{"id": f"c{n}", "type": "function", "function": one} for n, one in enumerate(asked)]

        def supports_function_calling(self) -> bool:
            return True

    agent = Agent(role="r", goal="g", backstory="b", tools=[look], llm=Model(model="m"))
    crew = Crew(agents=[agent], tasks=[Task(description="d", expected_output="e", agent=agent)])
    guarded = guard_crew()(crew.kickoff)
    return lambda governed: (guarded if governed else crew.kickoff)()


def openai_agents() -> Run:
    """An agent's tools, all asked for in one turn, so that few model calls are among them."""
    from agents import Agent, Runner, function_tool, set_tracing_disabled
    from agents.testing import ScriptedModel, assistant_message, function_call

    from tappass import guard_openai_run

    set_tracing_disabled(True)

    @function_tool
    async def look(text: str) -> str:
        return text

    wanted = [function_call("look", {"text": f"n{number}"}, call_id=f"c{number}") for number in range(CALLS)]
    guarded = guard_openai_run()(Runner.run_sync)

    def run(governed: bool) -> None:
        model = ScriptedModel([wanted, [assistant_message("done")]])
        agent = Agent(name="a", model=model, tools=[look])
        (guarded if governed else Runner.run_sync)(agent, "go")

    return run


def google_adk() -> Run:
    """An agent's tools, all asked for in one answer."""
    from google.adk.agents import LlmAgent
    from google.adk.models import BaseLlm, LlmResponse
    from google.adk.runners import InMemoryRunner
    from google.genai import types

    from tappass import guard_adk_agent

    def look(text: str) -> str:
        """Look."""
        return text

    class Script(BaseLlm):
        async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
            asked = any(part.function_response for content in llm_request.contents for part in content.parts or ())
            calls = [types.FunctionCall(name="look", args={"text": f"n{number}"}) for number in range(CALLS)]
            parts = [types.Part(text="done")] if asked else [types.Part(function_call=call) for call in calls]
            yield LlmResponse(content=types.Content(role="model", parts=parts))

    def run(governed: bool) -> None:
        runner = InMemoryRunner(agent=LlmAgent(name="x", model=Script(model="m"), tools=[look]), app_name="a")
        runner.auto_create_session = True
        entry = guard_adk_agent()(runner.run_async) if governed else runner.run_async

        async def run_all() -> None:
            async for _ in entry(user_id="u", session_id="s", new_message=types.UserContent("go")):
                pass

        asyncio.run(run_all())

    return run


# What decides in coroutines, so that the event loop stays free, is held against a governed coroutine.
SYNC: dict[str, Callable[[], Run]] = {"langgraph": langchain, "crewai": crewai}
ASYNC: dict[str, Callable[[], Run]] = {"openai-agents": openai_agents, "google-adk": google_adk}


def plane_us() -> float:
    """Return what the embedded plane takes for one call of a governed function, in microseconds."""

    def look_alone(text: str) -> str:
        return text

    governed = tool(look_alone)

    def all_calls(call: Callable[[str], str]) -> None:
        with tappass_session():
            for number in range(CALLS):
                call(f"n{number}")

    return compared(lambda with_plane: all_calls(governed if with_plane else look_alone))


def async_plane_us() -> float:
    """Return the same for a governed coroutine function, its calls all at once."""

    async def alook_alone(text: str) -> str:
        return text

    governed = tool(alook_alone)

    async def all_calls(call: Callable[[str], Any]) -> None:
        async with tappass_session():
            await asyncio.gather(*(call(f"n{number}") for number in range(CALLS)))

    return compared(lambda with_plane: asyncio.run(all_calls(governed if with_plane else alook_alone)))


def compared(run: Run) -> float:
    """Return how much longer a call takes when it is governed, in microseconds: the median of the differences."""
    run(True)
    run(False)
    differences = []
    for _ in range(ROUNDS):
        times = {}
        for governed in (False, True):
            began = time.perf_counter()
            run(governed)
            times[governed] = time.perf_counter() - began
        differences.append((times[True] - times[False]) / CALLS * 1e6)
    return statistics.median(differences)


def main() -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TAPPASS_URL"] = f"sqlite:///{Path(folder) / 'tappass.db'}"
        for what, own, frameworks in (("function", plane_us(), SYNC), ("coroutine", async_plane_us(), ASYNC)):
            print(f"{what:<18} {own:8.0f} us a call: the plane's own cost")
            for name, make in frameworks.items():
                try:
                    run = make()
                except ImportError:
                    print(f"{name:<18} is not installed here")
                    continue
                more = compared(run)
                print(f"{name:<18} {more:8.0f} us a call, {more - own:6.0f} over the plane")
        registry.shutdown()


if __name__ == "__main__":
    main()
