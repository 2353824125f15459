"""No way around a guarded run of LangChain or LangGraph, and nothing of the user's in its way."""

from __future__ import annotations

import gc
from typing import Annotated, Any

import anyio
import pytest
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, InjectedToolArg, StructuredTool, Tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command
from pydantic import Field

from tappass import PolicyBlockError, TapPassConfigError, current_session, govern, guard_agent, guard_agent_async
from tests.adapters.langchain.mail import ASK, IN, OUT, PROMPT, Mail, chat
from tests.adapters.scripted import Say, calls
from tests.people import agree

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize(
    "reconfigure",
    [
        lambda graph: graph.with_config({"tags": ["t"]}),
        lambda graph: graph.copy(),
        lambda graph: graph | RunnableLambda(lambda state: state),
        lambda graph: RunnableLambda(lambda state: state) | graph,
        lambda graph: graph.with_retry(stop_after_attempt=1),
        lambda graph: graph.with_fallbacks([RunnableLambda(lambda state: state)], exceptions_to_handle=(KeyError,)),
    ],
    ids=["with_config", "copy", "or", "ror", "with_retry", "with_fallbacks"],
)
@pytest.mark.parametrize("inside", [True, False], ids=["entered", "decorated"])
def test_copies_and_reconfigured_objects_are_governed(inside, reconfigure, plane, model):
    mail = Mail()
    graph = create_agent(chat(model), mail.tools())
    model.play(calls(OUT))
    with pytest.raises(PolicyBlockError):
        if inside:
            with guard_agent(graph) as guarded:
                reconfigure(guarded).invoke(ASK)
        else:
            guard_agent()(reconfigure(graph).invoke)(ASK)
    assert mail.ran == []


def test_an_object_that_nobody_handed_over_is_governed_inside_the_block(plane, model):
    mail = Mail()
    model.play(calls(OUT))
    with pytest.raises(PolicyBlockError), guard_agent():
        create_agent(chat(model), mail.tools()).invoke(ASK)
    assert mail.ran == []


def test_the_users_callbacks_still_fire_in_order(plane, model):
    heard: list[str] = []

    class Mine(BaseCallbackHandler):
        def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            heard.append("model")

        def on_tool_start(self, *_: Any, **__: Any) -> None:
            heard.append("tool")

        def on_tool_end(self, *_: Any, **__: Any) -> None:
            heard.append("tool end")

    mail = Mail()
    model.play(calls(IN))
    graph = create_agent(chat(model), mail.tools())
    guard_agent()(graph.invoke)(ASK, {"callbacks": [Mine()]})
    assert heard == ["model", "tool", "tool end", "model"]


def test_graph_executor_and_tools_are_as_they_were(plane, model):
    tools = Mail().tools()
    graph = create_agent(chat(model), tools)
    executor = AgentExecutor(agent=create_tool_calling_agent(chat(model), tools, PROMPT), tools=tools)
    functions = [tool.func for tool in tools]
    node = graph.nodes["tools"].bound
    before = dict(node.tools_by_name)
    model.play(calls(IN), Say(), calls(IN))
    guard_agent()(graph.invoke)(ASK)
    guard_agent()(executor.invoke)({"input": "do it"})
    assert [tool.func for tool in tools] == functions
    assert executor.tools == tools
    assert graph.nodes["tools"].bound is node
    assert node.tools_by_name == before
    assert all(tool.tags is None for tool in tools)


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_stream_left_half_way_closes_its_session(how, plane, model, audit_events):
    model.play(calls(IN))
    stream = guard_agent()(create_agent(chat(model), Mail().tools()).stream)(ASK, stream_mode="updates")
    next(stream)
    assert current_session() is None
    if how == "close":
        stream.close()
    del stream
    gc.collect()
    assert [e.status for e in audit_events(type="session.closed")] == ["completed"]


def test_a_stream_is_governed_after_its_block_was_left(plane, model):
    mail = Mail()
    model.play(calls(OUT))
    with guard_agent(create_agent(chat(model), mail.tools())) as guarded:
        stream = guarded.stream(ASK, stream_mode="updates")
    with pytest.raises(PolicyBlockError):
        list(stream)
    assert mail.ran == []


def test_events_are_streamed_and_governed(plane, model):
    mail = Mail()
    model.play(calls(OUT))

    async def main() -> None:
        graph = create_agent(chat(model), mail.tools())
        async with guard_agent_async(graph) as guarded:
            async for _ in guarded.astream_events(ASK, version="v2"):
                pass

    with pytest.raises(PolicyBlockError):
        anyio.run(main)
    assert mail.ran == []


def test_a_tool_node_that_turns_errors_into_text_does_not_lose_a_refusal(plane, model):
    mail = Mail()
    node = ToolNode(mail.tools(), handle_tool_errors=True)
    bound = chat(model).bind_tools(mail.tools())
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [bound.invoke(state["messages"])]})
    builder.add_node("tools", node)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", lambda s: "tools" if s["messages"][-1].tool_calls else END)
    builder.add_edge("tools", "model")
    model.play(calls(OUT))
    with pytest.raises(PolicyBlockError, match="inside"):
        guard_agent()(builder.compile().invoke)(ASK)
    assert mail.ran == []
    assert len(model.seen) == 1


def test_a_sub_graph_is_a_child_session(plane, model, audit_events):
    mail = Mail()
    inner = create_agent(chat(model), mail.tools(), name="helper")
    builder = StateGraph(MessagesState)
    builder.add_node("delegate", inner)
    builder.add_edge(START, "delegate")
    builder.add_edge("delegate", END)
    graph = builder.compile(name="boss")
    model.play(calls(IN))
    guard_agent()(graph.invoke)(ASK)
    rows = {row.name: row for row in plane.plane.engine.store.read.sessions()}
    # Older versions do not say what an agent is called: its node's name stands for it.
    (name,) = set(rows) - {"boss"}
    assert name in ("helper", "delegate")
    assert rows[name].parent == rows["boss"].session_id
    assert {e.session_id for e in audit_events(type="call.decided")} == {rows[name].session_id}
    assert {row.status for row in rows.values()} == {"completed"}


def test_parallel_tools_of_a_sub_graph_open_one_session(plane, audit_events):
    inner = StateGraph(MessagesState)
    inner.add_node("tools", ToolNode(Mail().tools()))
    inner.add_edge(START, "tools")
    inner.add_edge("tools", END)
    builder = StateGraph(MessagesState)
    builder.add_node("delegate", inner.compile())
    builder.add_edge(START, "delegate")
    builder.add_edge("delegate", END)
    wanted = [{"name": "send", "args": {"to": f"a{n}@acme.com"}, "id": f"c{n}"} for n in range(8)]
    guard_agent(name="boss")(builder.compile().invoke)({"messages": [AIMessage("", tool_calls=wanted)]})
    assert sorted(row.name for row in plane.plane.engine.store.read.sessions()) == ["boss", "delegate"]
    assert len({e.session_id for e in audit_events(type="call.decided")}) == 1
    assert [e.status for e in audit_events(type="session.closed")] == ["completed"] * 2


def test_an_async_graph_is_interrupted_and_resumed_in_its_session(plane, model, audit_events):
    mail = Mail()
    config = {"configurable": {"thread_id": "1"}}

    async def main() -> None:
        graph = create_agent(chat(model), mail.tools(), checkpointer=InMemorySaver())
        run = guard_agent_async()(graph.ainvoke)
        model.play(calls(("pay", {"amount": 5})))
        state = await run(ASK, config)
        assert [pending.value["tappass"] for pending in state["__interrupt__"]] == ["approval"]
        # Nobody has agreed yet: it waits on.
        state = await run(Command(resume="go on"), config)
        assert state["__interrupt__"]
        assert agree(plane.plane.engine) == 1
        state = await run(Command(resume="go on"), config)
        assert state["messages"][-1].content == "all done"

    anyio.run(main)
    assert mail.ran == [5]
    assert len({e.session_id for e in audit_events(type="call.decided")}) == 1
    assert [e.status for e in audit_events(type="session.closed")] == ["suspended", "suspended", "completed"]


class Upper(BaseTool):
    name: str = "send"
    description: str = "Send a mail."
    ran: list[str] = Field(default_factory=list)

    def _run(self, to: str) -> str:
        self.ran.append(to)
        return to.upper()


class Elsewhere(Upper):
    def run(self, *args: Any, **kwargs: Any) -> Any:
        return super().run(*args, **kwargs)


def test_govern_takes_tools_and_returns_their_like_governed_on_every_path(plane):
    ran: list[Any] = []

    def send(to: str) -> str:
        """Send a mail."""
        ran.append(to)
        return to

    async def asend(to: str) -> str:
        """Send a mail."""
        ran.append(to)
        return to

    plain = StructuredTool.from_function(send)
    both = StructuredTool.from_function(func=send, coroutine=asend, name="send")
    single = Tool(name="send", func=lambda to: ran.append(to), description="Send.")
    own = Upper()
    tools = govern([plain, both, single, own])
    for tool, original in zip(tools, (plain, both, single, own), strict=True):
        assert type(tool) is type(original)
        assert tool is not original
        assert tool.tool_call_schema.model_json_schema() == original.tool_call_schema.model_json_schema()
    paths: list[Any] = [
        lambda tool: tool.invoke({"to": "eve@evil.example"}),
        lambda tool: tool.run({"to": "eve@evil.example"}),
        lambda tool: anyio.run(tool.ainvoke, {"to": "eve@evil.example"}),
        lambda tool: tool.model_copy().invoke({"to": "eve@evil.example"}),
        lambda tool: tool.batch([{"to": "eve@evil.example"}]),
    ]
    for tool in tools:
        for path in paths:
            with pytest.raises(PolicyBlockError):
                path(tool)
    with pytest.raises(PolicyBlockError):
        tools[0].func("eve@evil.example")
    with pytest.raises(PolicyBlockError):
        anyio.run(tools[1].coroutine, "eve@evil.example")
    assert (ran, own.ran) == ([], [])
    assert govern(tools) == tools
    assert plain.func is send


def test_injected_arguments_are_not_shown_to_policy(plane, audit_events):
    seen: list[Any] = []

    def look(text: str, token: Annotated[str, InjectedToolArg]) -> str:
        """Look."""
        seen.append((text, token))
        return "ok"

    (tool,) = govern([StructuredTool.from_function(look)])
    tool.invoke({"text": "hello", "token": "secret-token"})
    assert seen == [("hello", "secret-token")]
    (decided,) = audit_events(type="call.decided")
    content = plane.plane.engine.store.read.content(decided.seq)
    assert b"secret-token" not in (content or b"")


def test_a_tool_with_another_way_in_is_refused():
    with pytest.raises(TapPassConfigError, match=r"`send` can be called past the gate: Elsewhere has its own run"):
        govern([Elsewhere()])


def test_a_governed_tool_in_a_guarded_run_is_decided_once(plane, model, audit_events):
    mail = Mail()
    model.play(calls(IN))
    guard_agent()(create_agent(chat(model), govern(mail.tools())).invoke)(ASK)
    assert [e.name for e in audit_events(type="call.decided") if e.kind == "tool"] == ["send"]


def test_govern_of_a_governed_tool_tells_where_the_guard_tells(plane, model):
    mail = Mail()
    model.play(calls(OUT))
    state = guard_agent(on_block="tell")(create_agent(chat(model), govern(mail.tools())).invoke)(ASK)
    assert state["messages"][-1].content == "all done"
    assert "Not done: " in model.seen[1].text
    assert mail.ran == []
