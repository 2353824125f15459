"""What is particular to the Agents SDK: delegation, hooks, what cannot be governed, streams, interruptions."""

from __future__ import annotations

import copy
import dataclasses
import gc
from typing import Any

import anyio
import pytest
from agents import (
    Agent,
    CodeInterpreterTool,
    FunctionTool,
    ModelBehaviorError,
    OpenAIProvider,
    RunConfig,
    RunHooks,
    Runner,
    RunState,
    ToolGuardrailFunctionOutput,
    WebSearchTool,
    function_tool,
    handoff,
    tool_input_guardrail,
)
from agents.lifecycle import AgentHooksBase, RunHooksBase
from agents.mcp import MCPServer
from agents.run import get_default_agent_runner, set_default_agent_runner
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as MCPTool
from openai import AsyncOpenAI

from tappass import (
    ApprovalRequired,
    PolicyBlockError,
    TapPassConfigError,
    current_session,
    govern,
    guard_openai_run,
    tappass_session,
    tool,
)
from tests.adapters import scripted_responses  # noqa: F401  a protocol of the scripted model
from tests.adapters.scripted import Say, ScriptedModel, calls
from tests.people import agree, disagree

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

POLICY = """
    version: 1
    rules:
      - {id: inside, tool: send, when: '!args.to.endsWith("@acme.com")', effect: block}
      - {id: ask, tool: pay, effect: require_approval}
      - {id: mask, tool: look, effect: redact, fields: [result, arguments], kinds: [EMAIL]}
      - {id: no-boss, tool: transfer_to_boss, effect: block}
"""
MASKING = """
    version: 1
    rules:
      - {id: mask, llm: '*', effect: redact, fields: [result, prompt], kinds: [EMAIL]}
"""
OUT, IN, PAY = ("send", {"to": "eve@evil.example"}), ("send", {"to": "ann@acme.com"}), ("pay", {"amount": 5})


class World:
    """A model, tools that note what they were called with and in which session, and the log."""

    def __init__(self, plane: Any, model: ScriptedModel) -> None:
        self.plane, self.model = plane, model
        self.ran: list[Any] = []
        self.clients: list[AsyncOpenAI] = []
        plane.policy(POLICY)

    def config(self, *, responses: bool = True) -> RunConfig:
        client = AsyncOpenAI(base_url=f"{self.model.url}/v1", api_key="x", max_retries=0)
        self.clients.append(client)
        provider = OpenAIProvider(openai_client=client, use_responses=responses)
        return RunConfig(model_provider=provider, tracing_disabled=True)

    def note(self, *what: Any) -> None:
        session = current_session()
        self.ran.append((*what, session.name if session is not None else ""))

    def tool(self, name: str, **options: Any) -> FunctionTool:
        def send(to: str) -> str:
            """Send a mail."""
            self.note("send", to)
            return f"sent to {to}"

        async def pay(amount: int) -> str:
            """Pay an amount."""
            self.note("pay", amount)
            return f"paid {amount}"

        def look(text: str) -> str:
            """Look something up."""
            self.note("look", text)
            return "written by bob@acme.com"

        return function_tool({"send": send, "pay": pay, "look": look}[name], **options)

    def agent(self, name: str = "clerk", *names: str, **fields: Any) -> Agent[Any]:
        tools = [self.tool(one) for one in names or ("send",)]
        return Agent(name=name, model="scripted-1", tools=[*tools, *fields.pop("more", ())], **fields)

    def run(self, agent: Any, given: Any = "do it", *, asked: Any = None, **options: Any) -> Any:
        async def main() -> Any:
            run = guard_openai_run(**(asked or {}))(Runner.run)
            return await run(agent, given, **{"run_config": self.config(), **options})

        return self.go(main)

    def go(self, main: Any) -> Any:
        """Run something asynchronous; close its clients on the event loop that they are of."""

        async def closing() -> Any:
            try:
                return await main()
            finally:
                while self.clients:
                    await self.clients.pop().close()

        return anyio.run(closing)

    def sessions(self) -> list[tuple[str, str, str]]:
        """Name, kind and status of each session, in order."""
        ended = {e.session_id: e.status for e in self.plane.events(type="session.closed")}
        found = self.plane.plane.engine.store.read.sessions()
        return [(one.name, one.kind, ended.get(one.session_id, "open")) for one in reversed(found)]

    def decided(self) -> list[tuple[str, str]]:
        return [(e.name, e.outcome) for e in self.plane.events(type="call.decided") if e.kind == "tool"]


@pytest.fixture
def world(tappass_plane: Any) -> Any:
    with ScriptedModel() as model:
        yield World(tappass_plane, model)


def test_the_session_is_called_like_the_agent_where_it_is_entered(world):
    async def main() -> None:
        agent = world.agent()
        async with guard_openai_run(agent) as guarded:
            await Runner.run(guarded, "hi", run_config=world.config())
            assert guarded.session.session_id
            assert guarded.name == "clerk"

    world.go(main)
    assert world.sessions() == [("clerk", "run", "completed")]


def test_a_handoff_goes_on_in_a_child_session(world):
    other = world.agent("sales")
    world.model.play(calls(("transfer_to_sales", {})), calls(IN))
    agent = world.agent(handoffs=[other])
    result = world.run(agent)
    assert result.last_agent is other
    assert world.sessions() == [("run", "run", "completed"), ("sales", "agent", "completed")]
    assert world.ran == [("send", "ann@acme.com", "sales")]
    assert world.decided() == [("transfer_to_sales", "allow"), ("send", "allow")]


def test_agents_that_hand_over_in_circles_are_governed(world):
    one, two = world.agent("one"), world.agent("two")
    one.handoffs, two.handoffs = [two], [handoff(one)]
    world.model.play(calls(("transfer_to_two", {})), calls(("transfer_to_one", {})), calls(OUT))
    with pytest.raises(PolicyBlockError):
        world.run(one)
    assert world.ran == []
    assert [name for name, *_ in world.sessions()] == ["run", "two", "one"]


def test_a_refused_handoff_does_not_take_place(world):
    agent = world.agent(handoffs=[world.agent("boss")])
    world.model.play(calls(("transfer_to_boss", {})))
    with pytest.raises(PolicyBlockError, match="no-boss"):
        world.run(agent)
    world.model.play(calls(("transfer_to_boss", {})))
    result = world.run(agent, asked={"on_block": "tell"})
    assert result.last_agent is agent
    assert "Not done: " in world.model.seen[-1].text


def test_an_agent_as_a_tool_runs_in_a_child_session_and_is_governed(world):
    inner = world.agent("helper").as_tool("helper", "helps")
    world.model.play(calls(("helper", {"input": "go"})), calls(IN), Say(), Say())
    world.run(world.agent(more=[inner]))
    assert world.sessions() == [("run", "run", "completed"), ("helper", "agent", "completed")]
    assert world.ran == [("send", "ann@acme.com", "helper")]
    assert world.decided() == [("helper", "allow"), ("send", "allow")]


def test_a_refusal_in_an_agent_as_a_tool_ends_the_unit_although_the_sdk_made_text_of_it(world):
    inner = world.agent("helper").as_tool("helper", "helps")
    world.model.play(calls(("helper", {"input": "go"})), calls(OUT))
    with pytest.raises(PolicyBlockError, match="inside"):
        world.run(world.agent(more=[inner]))
    assert world.ran == []
    assert len(world.model.seen) == 2
    assert [status for *_, status in world.sessions()] == ["failed", "failed"]


@pytest.mark.parametrize("how", ["run", "run_streamed", "run_sync"])
def test_a_run_inside_a_users_tool_is_governed(how, world):
    @function_tool
    async def delegate() -> str:
        """Let somebody else do it."""
        if how == "run_sync":
            return (await anyio.to_thread.run_sync(_sync)).final_output
        options = {"run_config": world.config()}
        if how == "run":
            return (await Runner.run(world.agent("helper"), "go", **options)).final_output
        result = Runner.run_streamed(world.agent("helper"), "go", **options)
        async for _event in result.stream_events():
            pass
        return result.final_output

    def _sync() -> Any:
        import asyncio

        asyncio.set_event_loop(loop := asyncio.new_event_loop())
        try:
            return Runner.run_sync(world.agent("helper"), "go", run_config=world.config())
        finally:
            while len(world.clients) > 1:
                loop.run_until_complete(world.clients.pop().close())
            loop.close()

    world.model.play(calls(("delegate", {})), calls(IN), Say(), Say())
    world.run(world.agent(more=[delegate]))
    assert world.ran == [("send", "ann@acme.com", "helper")]
    assert world.sessions() == [("run", "run", "completed"), ("helper", "agent", "completed")]


@pytest.mark.parametrize("hosted", [WebSearchTool(), CodeInterpreterTool(tool_config={"type": "code_interpreter"})])
def test_tools_that_run_at_openai_are_refused_before_the_model_is_asked(hosted, world):
    with pytest.raises(TapPassConfigError, match="cannot be governed"):
        world.run(world.agent(more=[hosted]))
    assert world.model.seen == []


def test_a_tool_that_hooks_put_in_is_governed(world):
    class Adding(RunHooks[Any]):
        async def on_agent_start(self, context: Any, agent: Any) -> None:
            agent.tools = [world.tool("send")]

    world.model.play(calls(OUT))
    # Before 0.24 it came too late for the turn that had begun.
    with pytest.raises((PolicyBlockError, ModelBehaviorError)):
        world.run(Agent(name="empty", model="scripted-1"), hooks=Adding())
    assert world.ran == []


class Mail(MCPServer):
    """An MCP server in this process."""

    def __init__(self, ran: list[Any]) -> None:
        super().__init__()
        self.ran = ran

    name = "mail"

    async def connect(self) -> None: ...

    async def cleanup(self) -> None: ...

    async def list_tools(self, *_args: Any, **_kwargs: Any) -> Any:
        schema = {"type": "object", "properties": {"to": {"type": "string"}}}
        return [MCPTool(name="send", description="Send a mail.", inputSchema=schema)]

    async def call_tool(self, tool_name: str, arguments: Any, *_args: Any, **_kwargs: Any) -> Any:
        self.ran.append((tool_name, arguments))
        return CallToolResult(content=[TextContent(type="text", text="sent")])

    async def list_prompts(self) -> Any: ...

    async def get_prompt(self, name: str, arguments: Any = None) -> Any: ...


def test_tools_of_mcp_servers_are_governed_with_their_server(world):
    agent = Agent(name="a", model="scripted-1", mcp_servers=[Mail(world.ran)])
    world.model.play(calls(IN), calls(OUT))
    with pytest.raises(PolicyBlockError):
        world.run(agent)
    assert world.ran == [("send", {"to": "ann@acme.com"})]
    world.plane.policy("version: 1\nrules:\n  - {id: no-mail, mcp_server: mail, effect: block}")
    world.model.play(calls(IN))
    with pytest.raises(PolicyBlockError, match="no-mail"):
        world.run(agent)


def test_the_users_hooks_fire_in_order_with_their_own_objects(world):
    seen: list[Any] = []
    agent = world.agent()

    def noting(base: Any, who: str) -> Any:
        def hook(name: str) -> Any:
            async def called(self: Any, *args: Any) -> None:
                seen.append((who, name))
                for arg in args:
                    if isinstance(arg, Agent):
                        assert arg is agent
                    if isinstance(arg, FunctionTool):
                        assert arg is agent.tools[0]

            return called

        return type(who, (base,), {name: hook(name) for name in dir(base) if name.startswith("on_")})()

    agent.hooks = noting(AgentHooksBase, "agent")
    world.model.play(calls(IN))
    world.run(agent, hooks=noting(RunHooksBase, "run"))
    assert [name for who, name in seen if who == "run"] == [
        "on_agent_start",
        "on_llm_start",
        "on_llm_end",
        "on_tool_start",
        "on_tool_end",
        "on_llm_start",
        "on_llm_end",
        "on_agent_end",
    ]
    assert [name for who, name in seen if who == "agent"] == [
        "on_start",
        "on_llm_start",
        "on_llm_end",
        "on_tool_start",
        "on_tool_end",
        "on_llm_start",
        "on_llm_end",
        "on_end",
    ]


def test_a_users_hook_that_raises_ends_the_run_and_its_session(world):
    class Broken(RunHooks[Any]):
        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            raise ValueError("mine")

    world.model.play(calls(IN))
    with pytest.raises(Exception, match="mine"):
        world.run(world.agent(), hooks=Broken())
    assert world.ran == []
    assert world.sessions() == [("run", "run", "failed")]


def test_afterwards_agent_tools_and_runner_are_as_they_were(world):
    agent = world.agent(handoffs=[world.agent("sales")])
    before = (dict(vars(agent)), [vars(one).copy() for one in agent.tools])
    world.model.play(calls(IN))
    result = world.run(agent)
    after = {name: value for name, value in vars(agent).items() if not name.startswith("_function_approval")}
    assert (after, [vars(one) for one in agent.tools]) == before
    assert result.last_agent is agent
    assert all(item.agent is agent for item in result.new_items)

    async def outside() -> Any:
        return await Runner.run(agent, "again", run_config=world.config())

    world.model.play(calls(OUT))
    world.go(outside)
    assert world.ran[-1] == ("send", "eve@evil.example", "")


def test_a_runner_that_somebody_else_put_there_still_runs(world):
    class Theirs:
        def __init__(self, inner: Any) -> None:
            self.inner, self.runs = inner, 0

        async def run(self, *args: Any, **kwargs: Any) -> Any:
            self.runs += 1
            return await self.inner.run(*args, **kwargs)

    before = get_default_agent_runner()
    theirs = Theirs(before)
    set_default_agent_runner(theirs)  # type: ignore[arg-type]
    try:
        world.model.play(calls(OUT))
        with pytest.raises(PolicyBlockError):
            world.run(world.agent())
    finally:
        set_default_agent_runner(before)
    assert theirs.runs == 1
    assert world.ran == []
    assert world.sessions() == [("run", "run", "failed")]


def test_prompts_are_sent_redacted_and_answers_are_read_redacted(world):
    world.plane.policy(MASKING)
    world.model.play(Say(("ask bob@acme.com", " first")))
    agent = Agent(name="a", model="scripted-1", instructions="you are eve@acme.com")
    result = world.run(agent, "write to ann@acme.com")
    assert "@acme.com" not in world.model.seen[0].text
    assert world.model.seen[0].body["instructions"] == "you are [EMAIL]"
    assert result.final_output == "ask [EMAIL] first"


def test_a_streamed_answer_is_redacted_as_it_comes(world):
    world.plane.policy(MASKING)
    world.model.play(Say(("ask ", "bob@ac", "me.com", " first")))

    async def main() -> Any:
        run = guard_openai_run()(Runner.run_streamed)
        result = run(Agent(name="a", model="scripted-1"), "hi", run_config=world.config())
        shown = ""
        async for event in result.stream_events():
            assert "bob@acme.com" not in repr(event)
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                shown += event.data.delta
        return shown, result.final_output

    assert world.go(main) == ("ask [EMAIL] first", "ask [EMAIL] first")
    assert world.sessions() == [("run_streamed", "run", "completed")]


def test_a_stream_is_governed_after_the_block_that_began_it(world):
    async def main() -> None:
        agent = world.agent()
        async with guard_openai_run(agent) as guarded:
            result = Runner.run_streamed(guarded, "hi", run_config=world.config())
        assert world.sessions() == [("clerk", "run", "open")]
        with pytest.raises(PolicyBlockError):
            async for _event in result.stream_events():
                pass

    world.model.play(calls(OUT))
    world.go(main)
    assert world.ran == []
    assert world.sessions() == [("clerk", "run", "failed")]


@pytest.mark.parametrize("how", ["cancelled", "dropped", "never read"])
def test_a_stream_that_is_left_closes_its_session(how, world):
    async def main() -> None:
        agent = world.agent()
        result = guard_openai_run()(Runner.run_streamed)(agent, "hi", run_config=world.config())
        task = result.run_loop_task
        if how != "never read":
            events = result.stream_events()
            await anext(events)
            if how == "cancelled":
                result.cancel()
                async for _event in events:
                    pass
            else:
                await events.aclose()
        del result
        gc.collect()
        with anyio.move_on_after(20):
            while not task.done() or world.sessions()[0][2] == "open":  # noqa: ASYNC110
                await anyio.sleep(0.01)

    world.model.play(calls(IN))
    world.go(main)
    assert world.sessions()[0][2] in ("completed", "failed")


def test_interruptions_show_where_people_decide_and_a_run_goes_on_in_its_session(world):
    world.model.play(calls(PAY))
    agent = world.agent("clerk", "pay")
    result = world.run(agent)
    (item,) = result.interruptions
    assert item.raw_item.tappass["approval_url"].startswith("http://127.0.0.1:9620/approvals/")
    assert world.sessions() == [("run", "run", "suspended")]
    assert agree(world.plane.plane.engine) == 1
    state = result.to_state()
    state.approve(state.get_interruptions()[0])
    assert world.run(agent, state).final_output == "all done"
    assert [one[:2] for one in world.ran] == [("pay", 5)]
    assert world.sessions() == [("run", "run", "completed")]
    assert "tappass" not in world.model.seen[-1].text


def test_a_run_that_goes_on_before_people_agreed_asks_again_and_the_state_stays_good(world):
    world.model.play(calls(PAY))
    agent = world.agent("clerk", "pay")
    text = world.run(agent).to_state().to_string()

    async def state() -> Any:
        made = await RunState.from_string(agent, text)
        made.approve(made.get_interruptions()[0])
        return made

    with pytest.raises(ApprovalRequired, match="still waiting") as caught:
        world.run(agent, world.go(state))
    assert caught.value.approval_url
    assert world.ran == []
    agree(world.plane.plane.engine)
    assert world.run(agent, world.go(state)).final_output == "all done"
    with pytest.raises(PolicyBlockError, match="used already"):
        world.run(agent, world.go(state))
    assert [one[:2] for one in world.ran] == [("pay", 5)]


def test_a_person_in_the_sdk_cannot_stand_for_the_people_of_the_plane(world):
    world.model.play(calls(PAY))
    agent = world.agent("clerk", "pay")
    result = world.run(agent)
    disagree(world.plane.plane.engine)
    state = result.to_state()
    state.approve(state.get_interruptions()[0])
    with pytest.raises(PolicyBlockError, match="denied by people"):
        world.run(agent, state)
    assert world.ran == []


def test_two_held_calls_of_one_turn_go_on_each_by_its_own_approval(world):
    world.model.play(calls(PAY, ("pay", {"amount": 7}), IN))
    agent = world.agent("clerk", "pay", "send")
    result = world.run(agent)
    assert len(result.interruptions) == 2
    assert agree(world.plane.plane.engine) == 2
    state = result.to_state()
    for item in state.get_interruptions():
        state.approve(item)
    world.run(agent, state)
    assert sorted(one[:2] for one in world.ran) == [("pay", 5), ("pay", 7), ("send", "ann@acme.com")]


def test_another_held_call_after_a_resumed_one_is_asked_anew(world):
    world.model.play(calls(PAY))
    agent = world.agent("clerk", "pay")
    result = world.run(agent)
    agree(world.plane.plane.engine)
    state = result.to_state()
    state.approve(state.get_interruptions()[0])
    world.model.play(calls(("pay", {"amount": 9})))
    again = world.run(agent, state)
    (item,) = again.interruptions
    assert '"amount": 9' in item.raw_item.arguments
    assert [one[:2] for one in world.ran] == [("pay", 5)]


def test_a_held_call_of_an_agent_as_a_tool_interrupts_the_whole_run(world):
    helper = world.agent("helper", "pay")
    agent = world.agent(more=[helper.as_tool("helper", "helps")])
    world.model.play(calls(("helper", {"input": "go"})), calls(PAY))
    result = world.run(agent)
    (item,) = result.interruptions
    assert item.raw_item.tappass["resume_token"]
    assert world.ran == []
    agree(world.plane.plane.engine)
    state = result.to_state()
    state.approve(state.get_interruptions()[0])
    assert world.run(agent, state).final_output == "all done"
    assert [one[:2] for one in world.ran] == [("pay", 5)]


def test_needs_approval_of_the_users_own_still_interrupts(world):
    agent = Agent(name="a", model="scripted-1", tools=[world.tool("send", needs_approval=True)])
    world.model.play(calls(IN))
    result = world.run(agent)
    (item,) = result.interruptions
    assert not hasattr(item.raw_item, "tappass")
    state = result.to_state()
    state.approve(state.get_interruptions()[0])
    world.run(agent, state)
    assert [one[:2] for one in world.ran] == [("send", "ann@acme.com")]


def test_a_tools_context_shows_redacted_arguments_only(world):
    seen = []

    async def look(context: Any, text: str) -> str:
        seen.append((text, context.tool_arguments, context.tool_call.arguments))
        return "ok"

    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    made = FunctionTool("look", "look", schema, look, strict_json_schema=False)
    world.model.play(calls(("look", {"text": "of ann@acme.com"})))
    world.run(Agent(name="a", model="scripted-1", tools=[made]))
    (texts,) = seen
    assert all("ann@acme.com" not in text and "[EMAIL]" in text for text in texts)


def test_governed_tools_keep_their_type_and_schema_and_are_decided_once(world):
    original = world.tool("send")
    (governed,) = govern([original])
    assert type(governed) is FunctionTool
    assert governed.params_json_schema == original.params_json_schema
    assert govern([governed])[0] is governed
    world.model.play(calls(IN))
    world.run(Agent(name="a", model="scripted-1", tools=[governed]))
    assert world.decided() == [("send", "allow")]
    assert world.ran == [("send", "ann@acme.com", "run")]


@pytest.mark.parametrize("how", ["as it is", "copied", "replaced"])
def test_governed_tools_are_governed_outside_any_guard(how, world):
    (governed,) = govern([world.tool("send", failure_error_function=None)])
    made = {"as it is": lambda x: x, "copied": copy.copy, "replaced": lambda x: dataclasses.replace(x, is_enabled=True)}
    agent = Agent(name="a", model="scripted-1", tools=[made[how](governed)])
    world.model.play(calls(OUT))

    async def main() -> None:
        with tappass_session():
            await Runner.run(agent, "hi", run_config=world.config())

    with pytest.raises(Exception) as caught:
        world.go(main)
    assert isinstance(caught.value.__cause__ or caught.value, PolicyBlockError)
    assert world.ran == []


@pytest.mark.parametrize("change", [{"name": "mail"}, {"description": "other"}])
def test_a_governed_tool_that_was_changed_since_is_refused(change, world):
    changed = dataclasses.replace(govern([world.tool("send")])[0], **change)
    with pytest.raises(TapPassConfigError, match="was changed after it was governed"):
        govern([changed])
    with pytest.raises(TapPassConfigError, match="was changed after it was governed"):
        world.run(Agent(name="a", model="scripted-1", tools=[changed]))
    assert world.ran == []


def test_functions_that_a_tool_calls_belong_to_the_runs_session(world):
    @tool
    def deep(x: int) -> int:
        world.note("deep", x)
        return x

    @function_tool
    def outer(x: int) -> int:
        """Go deeper."""
        return deep(x)

    world.model.play(calls(("outer", {"x": 3})))
    world.run(Agent(name="a", model="scripted-1", tools=[outer]))
    assert world.ran == [("deep", 3, "run")]
    assert world.decided() == [("outer", "allow"), ("deep", "allow")]


def test_text_that_is_no_object_is_shown_to_policy_as_it_is(world):
    async def raw(context: Any, text: str) -> str:
        world.note("raw", text)
        return "ok"

    made = FunctionTool("raw", "takes anything", {}, raw, strict_json_schema=False)
    world.plane.policy(
        "version: 1\nrules:\n  - {id: no-rm, tool: raw, when: 'args.input.contains(\"rm\")', effect: block}"
    )
    agent = Agent(name="a", model="scripted-1", tools=[made])
    text: Any = "rm -rf"
    world.model.play(calls(("raw", text)))
    with pytest.raises(PolicyBlockError, match="no-rm"):
        world.run(agent)
    text = "ls"
    world.model.play(calls(("raw", text)))
    world.run(agent)
    assert [one[:2] for one in world.ran] == [("raw", '"ls"')]


def test_a_function_that_runs_nothing_governed_is_told_so(world):
    @guard_openai_run()
    def work() -> int:
        return 1

    with pytest.raises(TapPassConfigError, match="nothing was governed"):
        work()


def test_what_is_no_agent_is_refused(world):
    with pytest.raises(TapPassConfigError, match="it is no Agent"):
        world.run("clerk")


@pytest.mark.parametrize("how", ["run", "run_streamed"])
def test_a_call_that_a_guardrail_of_the_user_rejects_shows_as_abandoned(how, world):
    @tool_input_guardrail
    def never(_data: Any) -> Any:
        return ToolGuardrailFunctionOutput.reject_content("not today")

    agent = world.agent()
    agent.tools[0].tool_input_guardrails = [never]
    world.model.play(calls(IN))

    async def main() -> Any:
        result = guard_openai_run()(getattr(Runner, how))(agent, "do it", run_config=world.config())
        if how == "run":
            return await result
        async for _ in result.stream_events():
            pass
        return result

    result = world.go(main)  # which lives on
    gc.collect()
    assert world.ran == []
    assert result.final_output == "all done"
    (task,) = {e.task_id for e in world.plane.events(type="call.decided") if e.kind == "tool"}
    assert [e.status for e in world.plane.events(type="call.ended") if e.task_id == task] == ["abandoned"]
