"""Delegation: each agent's calls are decided and lie in a session of its own, named as ADK names it."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import pytest
from google.adk.agents import BaseAgent, LlmAgent, LoopAgent, ParallelAgent, SequentialAgent
from google.adk.tools import AgentTool

from scripts import environments
from tappass import PolicyBlockError, TapPassConfigError, current_session, guard_adk_agent
from tests.adapters.google_adk.gemini import calls, says
from tests.adapters.google_adk.mail import IN, OUT, WAYS, Tools, asked, awaited, entered, mailer, runner_of, sync, texts


@pytest.fixture
def tools():
    return Tools()


def agent(name: str, noting: Tools, **more: Any) -> LlmAgent:
    """Return an agent that the scripted model tells by its name."""
    return mailer(noting, **({"name": name, "instruction": f"{name}-script", "description": name} | more))


def script(model: Any, **turns: Any) -> None:
    model.by_agent = {f"{name}-script": deque(said) for name, said in turns.items()}


def tree(plane: Any) -> dict[str, str]:
    """Return every session's name, and that of the one above."""
    sessions = {s.session_id: s for s in plane.engine.store.read.sessions()}
    return {s.name: sessions[s.parent].name if s.parent else "" for s in sessions.values()}


def made_in(plane: Any) -> dict[str, list[str]]:
    """Return the tool calls that were decided, by the name of their session."""
    names = {s.session_id: s.name for s in plane.engine.store.read.sessions()}
    found: dict[str, list[str]] = {}
    for event in plane.events(type="call.decided"):
        if event.kind == "tool":
            found.setdefault(names[event.session_id], []).append(event.name)
    return found


def statuses(plane: Any) -> dict[str, str]:
    names = {s.session_id: s.name for s in plane.engine.store.read.sessions()}
    return {names[e.session_id]: e.status for e in plane.events(type="session.closed")}


def test_an_agent_that_is_transferred_to_has_a_session_of_its_own(plane, model, tools):
    root = agent("boss", tools, sub_agents=[agent("clerk", tools)])
    transfer = ("transfer_to_agent", {"agent_name": "clerk"})
    script(model, boss=[calls(transfer)], clerk=[calls(IN), says("Sent.")])
    runner = runner_of(root)
    assert texts(entered(runner, awaited)) == "Sent."
    assert tree(plane) == {"boss": "", "clerk": "boss"}
    assert made_in(plane) == {"boss": ["transfer_to_agent"], "clerk": ["send"]}
    assert statuses(plane) == {"boss": "completed", "clerk": "completed"}
    # The next message goes to the clerk at once, and the run is the boss's all the same.
    script(model, clerk=[calls(OUT)])
    with pytest.raises(PolicyBlockError):
        entered(runner, awaited)
    assert tools.ran == [("send", "ann@acme.com")]
    assert statuses(plane) == {"boss": "failed", "clerk": "failed"}


def test_a_transfer_may_be_refused(here, model, tools):
    here.policy("version: 1\nrules:\n  - {id: stay, tool: transfer_to_agent, effect: block}")
    script(model, boss=[calls(("transfer_to_agent", {"agent_name": "clerk"}))], clerk=[calls(IN)])
    with pytest.raises(PolicyBlockError, match="stay"):
        entered(runner_of(agent("boss", tools, sub_agents=[agent("clerk", tools)])), awaited)
    assert len(model.seen) == 1


@pytest.mark.parametrize("plugins", [True, False], ids=["with the plugins", "without"])
def test_an_agent_that_is_a_tool_is_governed_with_or_without_its_callers_plugins(plugins, plane, model, tools):
    clerk = AgentTool(agent("clerk", tools), include_plugins=plugins)
    root = agent("boss", tools, tools=[clerk])
    ask = calls(("clerk", {"request": "send it"}))
    script(model, boss=[ask, says("Done.")], clerk=[calls(IN), says("Sent.")])
    assert texts(entered(runner_of(root), awaited)) == "Done."
    assert tree(plane) == {"boss": "", "clerk": "boss"}
    assert made_in(plane) == {"boss": ["clerk"], "clerk": ["send"]}
    script(model, boss=[ask, says("never")], clerk=[calls(OUT), says("never")])
    with pytest.raises(PolicyBlockError):
        entered(runner_of(root), awaited)
    assert tools.ran == [("send", "ann@acme.com")]


def test_an_agents_tool_that_runs_an_agent_itself_is_governed(here, model, tools):
    clerk = agent("clerk", tools)

    async def delegate() -> str:
        """Have it done."""
        return texts([event async for event in runner_of(clerk).run_async(**asked())])

    script(model, boss=[calls(("delegate", {}))], clerk=[calls(OUT)])
    with pytest.raises(PolicyBlockError):
        entered(runner_of(agent("boss", tools, tools=[delegate])), awaited)
    assert tools.ran == []
    assert tree(here) == {"boss": "", "clerk": "boss"}


@pytest.mark.parametrize("kind", [SequentialAgent, ParallelAgent, LoopAgent])
def test_workflow_agents_have_sessions_for_their_agents(kind, plane, model, tools):
    agents = [agent(name, tools) for name in ("fox", "owl")]
    root = kind(name="pipeline", sub_agents=agents, **({"max_iterations": 1} if kind is LoopAgent else {}))
    script(model, fox=[calls(IN), says("Sent.")], owl=[calls(("look", {"text": "x"})), says("Seen.")])
    entered(runner_of(root), awaited)
    assert tree(plane) == {"pipeline": "", "fox": "pipeline", "owl": "pipeline"}
    assert made_in(plane) == {"fox": ["send"], "owl": ["look"]}
    assert set(statuses(plane).values()) == {"completed"}
    script(model, fox=[calls(OUT)], owl=[calls(("look", {"text": "x"})), says("Seen.")])
    with pytest.raises(PolicyBlockError):
        entered(runner_of(root), awaited)
    assert ("send", "eve@evil.example") not in tools.ran


def test_workflow_agents_in_workflow_agents_are_named_as_they_lie(here, model, tools):
    inner = ParallelAgent(name="both", sub_agents=[agent("fox", tools), agent("owl", tools)])
    root = SequentialAgent(name="pipeline", sub_agents=[inner, agent("cat", tools)])
    script(model, fox=[calls(IN), says(".")], owl=[says(".")], cat=[says(".")])
    entered(runner_of(root), sync)
    assert tree(here) == {"pipeline": "", "both": "pipeline", "fox": "both", "owl": "both", "cat": "pipeline"}


@pytest.mark.parametrize("way", WAYS)
def test_a_delegated_task_is_decided_before_its_agent_begins(way, here, model, tools):
    try:
        clerk = agent("clerk", tools, mode="task")
    except ValueError:
        pytest.skip("this version of ADK knows no tasks")
    root = agent("boss", tools, sub_agents=[clerk])
    ask = ("clerk", {"goal": "send it", "background": "none"})
    script(model, boss=[calls(ask), says("Done.")], clerk=[calls(IN), calls(("finish_task", {"result": "sent"}))])
    entered(runner_of(root), awaited)
    assert tree(here) == {"boss": "", "clerk": "boss"}
    assert made_in(here)["boss"] == ["clerk"]
    assert "send" in made_in(here)["clerk"]
    here.policy("version: 1\nrules:\n  - {id: alone, tool: clerk, effect: block}")
    tools.ran.clear()
    script(model, boss=[calls(ask)], clerk=[calls(IN)])
    with pytest.raises(PolicyBlockError, match="alone"):
        WAYS[way](runner_of(root), awaited)
    assert tools.ran == []


def test_an_agent_of_the_users_own_kind_is_governed_through_its_sub_agents(here, model, tools):
    class Story(BaseAgent):
        writer: LlmAgent

        async def _run_async_impl(self, ctx: Any) -> Any:
            async for event in self.writer.run_async(ctx):
                yield event

    writer = agent("fox", tools)
    root = Story(name="story", writer=writer, sub_agents=[writer])
    script(model, fox=[calls(OUT)])
    with pytest.raises(PolicyBlockError):
        entered(runner_of(root), awaited)
    assert tools.ran == []
    assert tree(here) == {"story": "", "fox": "story"}


def test_an_agent_on_a_thread_of_its_own_is_governed(here, model, tools):
    """A bare thread carries no context; ADK's own invocation tells whose run it is."""
    import asyncio

    class Threaded(BaseAgent):
        async def _run_async_impl(self, ctx: Any) -> Any:
            found: list[Any] = []

            async def run() -> None:
                async for event in self.sub_agents[0].run_async(ctx):
                    found.append(event)

            def main() -> None:
                try:
                    asyncio.run(run())
                except Exception as error:
                    found.append(error)

            thread = threading.Thread(target=main)
            thread.start()
            await asyncio.to_thread(thread.join)
            if found and isinstance(found[-1], Exception):
                raise found[-1]
            for event in found:
                yield event

    script(model, fox=[calls(OUT)])
    with pytest.raises(PolicyBlockError):
        entered(runner_of(Threaded(name="threaded", sub_agents=[agent("fox", tools)])), awaited)
    assert tools.ran == []
    assert sorted({e.kind for e in here.events(type="call.decided")}) == ["llm", "tool"]


def test_a_tool_runs_in_its_agents_session(here, model, tools):
    seen: list[Any] = []

    def where() -> str:
        """Say where."""
        session = current_session()
        seen.append((session.name, bool(session.task_id)))
        return "here"

    script(model, fox=[calls(("where", {}))], owl=[calls(("where", {}))])
    root = SequentialAgent(name="both", sub_agents=[agent(n, tools, tools=[where]) for n in ("fox", "owl")])
    with guard_adk_agent(runner_of(root)) as guarded:
        sync(guarded)
    assert seen == [("fox", True), ("owl", True)]


def test_an_agent_that_another_framework_runs_is_refused(here, model, tools):
    try:
        from google.adk.agents.langgraph_agent import LangGraphAgent
    except ImportError:
        assert (environment := environments.here()) is None or environment.oldest
        pytest.skip("this version of ADK takes an older LangGraph")
    from langgraph.graph import END, START, MessagesState, StateGraph

    ran = []
    builder = StateGraph(MessagesState)
    builder.add_node("work", lambda state: ran.append(state) or {})
    builder.add_edge(START, "work")
    builder.add_edge("work", END)
    root = SequentialAgent(name="root", sub_agents=[LangGraphAgent(name="foreign", graph=builder.compile())])
    with pytest.raises(TapPassConfigError, match="does not see what the LangGraphAgent `foreign` does"):
        entered(runner_of(root), awaited)
    assert ran == []
    assert [e.status for e in here.events(type="session.closed")] == ["failed"]
