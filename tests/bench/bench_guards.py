"""What a governed tool call costs in a framework: what the guard adds to the plane, called from the same place.

    scripts/setup frameworks crewai
    .venv-frameworks/bin/python -m tests.bench.bench_guards
    .venv-crewai/bin/python -m tests.bench.bench_guards

A framework that is not installed is left out. Three runs of one agent take turns: without tappass; with its tool's
function decorated by `@tool`, which costs what the plane costs there (in the framework's threads, between its own
work); and guarded. "By the guard" is what the guard takes more than `@tool`. The first lines show what the plane costs
where nothing else runs.
"""

from __future__ import annotations

import asyncio
import gc
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

Run = Callable[[], object]
Make = Callable[[Callable[..., Any], bool], Run]
"""Makes the run of an agent with a tool, guarded or not."""


def look(text: str) -> str:
    """Look."""
    return text


async def alook(text: str) -> str:
    """Look."""
    return text


def langgraph(function: Callable[..., Any], guarded: bool) -> Run:
    """A graph whose tools are all asked for at once: a ToolNode runs them in threads."""
    wanted = [{"name": "look", "args": {"text": f"n{number}"}, "id": f"c{number}"} for number in range(CALLS)]
    return _graph(function, guarded, lambda asked: wanted)


def langgraph_in_turn(function: Callable[..., Any], guarded: bool) -> Run:
    """A graph whose tools are asked for one after another."""
    return _graph(function, guarded, lambda n: [{"name": "look", "args": {"text": f"n{n}"}, "id": f"c{n}"}])


def _graph(function: Callable[..., Any], guarded: bool, asking: Callable[[int], list[Any]]) -> Run:
    from langchain_core.messages import AIMessage
    from langgraph.graph import END, START, StateGraph
    from langgraph.prebuilt import ToolNode
    from typing_extensions import TypedDict

    from tappass import guard_agent

    State = TypedDict("State", {"messages": list[Any], "asked": int})  # noqa: UP013 - named where it is used

    def ask(state: Any) -> Any:
        calls: Any = asking(state["asked"])
        return {"messages": [AIMessage("", tool_calls=calls)], "asked": state["asked"] + len(calls)}

    builder: Any = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_node("tools", ToolNode([function]))
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "tools")
    builder.add_conditional_edges("tools", lambda state: "ask" if state["asked"] < CALLS else END)
    graph = builder.compile()
    invoke = guard_agent()(graph.invoke) if guarded else graph.invoke
    return lambda: invoke({"messages": [], "asked": 0}, {"recursion_limit": 10 * CALLS})


def crewai(function: Callable[..., Any], guarded: bool) -> Run:
    """A crew's tool, called as a model asks for it, the model in this process."""
    import json

    from crewai import Agent, Crew, Task
    from crewai.llms.base_llm import BaseLLM
    from crewai.tools import tool as crew_tool

    from tappass import guard_crew

    class Model(BaseLLM):
        def call(self, messages: Any, tools: Any = None, *_: Any, **__: Any) -> Any:
            if any(message["role"] == "tool" for message in messages):
                return "the end"
            asked = [{"name": "look", "arguments": json.dumps({"text": f"n{number}"})} for number in range(CALLS)]
            return [{"id": f"c{n}", "type": "function", "function": one} for n, one in enumerate(asked)]

        def supports_function_calling(self) -> bool:
            return True

    # Tools that are counted are called one by one.
    known = crew_tool("look", max_usage_count=10**9)(function)
    agent = Agent(role="r", goal="g", backstory="b", tools=[known], llm=Model(model="m"))
    crew = Crew(agents=[agent], tasks=[Task(description="d", expected_output="e", agent=agent)])
    return guard_crew()(crew.kickoff) if guarded else crew.kickoff


def openai_agents(function: Callable[..., Any], guarded: bool) -> Run:
    """An agent's tools, all asked for in one turn, so that few model calls are among them."""
    from agents import Agent, Runner, function_tool, set_tracing_disabled
    from agents.testing import ScriptedModel, assistant_message, function_call

    from tappass import guard_openai_run

    set_tracing_disabled(True)
    wanted = [function_call("look", {"text": f"n{number}"}, call_id=f"c{number}") for number in range(CALLS)]
    known = function_tool(function, name_override="look")
    run_sync = guard_openai_run()(Runner.run_sync) if guarded else Runner.run_sync

    def run() -> object:
        model = ScriptedModel([wanted, [assistant_message("done")]])
        return run_sync(Agent(name="a", model=model, tools=[known]), "go")

    return run


def google_adk(function: Callable[..., Any], guarded: bool) -> Run:
    """An agent's tools, all asked for in one answer."""
    from google.adk.agents import LlmAgent
    from google.adk.models import BaseLlm, LlmResponse
    from google.adk.runners import InMemoryRunner
    from google.adk.tools import FunctionTool
    from google.genai import types

    from tappass import guard_adk_agent

    known = FunctionTool(function)

    class Script(BaseLlm):
        async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
            asked = any(part.function_response for content in llm_request.contents for part in content.parts or ())
            calls = [types.FunctionCall(name=known.name, args={"text": f"n{number}"}) for number in range(CALLS)]
            parts = [types.Part(text="done")] if asked else [types.Part(function_call=call) for call in calls]
            yield LlmResponse(content=types.Content(role="model", parts=parts))

    def run() -> None:
        runner = InMemoryRunner(agent=LlmAgent(name="x", model=Script(model="m"), tools=[known]), app_name="a")
        runner.auto_create_session = True
        entry = guard_adk_agent()(runner.run_async) if guarded else runner.run_async

        async def run_all() -> None:
            async for _ in entry(user_id="u", session_id="s", new_message=types.UserContent("go")):
                pass

        asyncio.run(run_all())

    return run


def alone(function: Callable[..., Any], guarded: bool) -> Run:
    """The function by itself, called in turn; a coroutine function, all at once."""

    async def all_at_once() -> None:
        await asyncio.gather(*(function(f"n{number}") for number in range(CALLS)))

    def in_turn() -> None:
        for number in range(CALLS):
            function(f"n{number}")

    return (lambda: asyncio.run(all_at_once())) if asyncio.iscoroutinefunction(function) else in_turn


# What decides in coroutines, so that the event loop stays free, is held against a governed coroutine.
SYNC: dict[str, Make] = {
    "a function": alone,
    "langgraph": langgraph,
    "langgraph, in turn": langgraph_in_turn,
    "crewai": crewai,
}
ASYNC: dict[str, Make] = {"a coroutine": alone, "openai-agents": openai_agents, "google-adk": google_adk}


def microseconds(runs: dict[str, Run]) -> dict[str, float]:
    """Return what a call takes in each of these runs, in microseconds: the median of rounds in turn."""
    for run in runs.values():
        run()
    # What was imported is not collected again and again meanwhile: that takes 100 ms each time, in any run.
    gc.collect()
    gc.freeze()
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            took[name].append((time.perf_counter() - began) / CALLS * 1e6)
    return {name: statistics.median(times) for name, times in took.items()}


def in_session(run: Run) -> Run:
    """Return a run in a session of its own, as a guard opens one."""

    def within() -> None:
        with tappass_session():
            run()

    return within


def main() -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TAPPASS_URL"] = f"sqlite:///{Path(folder) / 'tappass.db'}"
        print(f"{'us a tool call':<20}{'ungoverned':>12}{'+ plane':>12}{'+ guard':>12}{'by the guard':>14}")
        for function, frameworks in ((look, SYNC), (alook, ASYNC)):
            for name, make in frameworks.items():
                governed = tool(function)
                try:
                    runs = {"without": make(function, False), "tool": in_session(make(governed, False))}
                except ImportError:
                    print(f"{name:<20} is not installed here")
                    continue
                if make is not alone:
                    runs["guard"] = make(function, True)
                took = microseconds(runs)
                line = f"{name:<20}{took['without']:>12.0f}{took['tool'] - took['without']:>12.0f}"
                if make is not alone:
                    line += f"{took['guard'] - took['without']:>12.0f}{took['guard'] - took['tool']:>14.0f}"
                print(line)
        registry.shutdown()


if __name__ == "__main__":
    main()
