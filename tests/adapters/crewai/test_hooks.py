"""CrewAI's hooks and events: the user's stay, ours fail closed, and what no hook sees is decided all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from crewai import LLM, Crew, Task
from crewai.events import crewai_event_bus
from crewai.events.types.hook_events import HookDispatchedEvent
from crewai.events.types.llm_events import LLMCallType
from crewai.events.types.tool_usage_events import ToolUsageFinishedEvent, ToolUsageStartedEvent
from crewai.hooks import HookAborted, InterceptionPoint, llm_hooks, on, unregister_hook
from crewai.hooks.dispatch import register_scoped, scoped_hooks
from crewai.llms.base_llm import BaseLLM, llm_call_context
from pydantic import BaseModel, Field

from tappass import PolicyBlockError, TapPassConfigError, TapPassConnectionError, TapPassError, guard_crew
from tappass.interception import Interception
from tests.adapters.crewai.crews import acts, agent, crew_of, llm

# CrewAI leaves the sockets of its clients to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

IN = ("send", {"to": "ann@acme.com"})
OUT = ("send", {"to": "eve@evil.example"})
LOOK = ("look", {"text": "x"})
PRE, POST = InterceptionPoint.PRE_TOOL_CALL, InterceptionPoint.POST_TOOL_CALL


@pytest.fixture
def crew(plane, script, ran):
    return crew_of(llm(script), ran.tools())


def test_the_users_hooks_and_callbacks_still_fire_in_order(crew, audit_events, script, ran):
    seen: list[Any] = []

    def noting(name: str) -> Any:
        def note(context: Any) -> None:
            seen.append((name, len(audit_events(type="call.decided"))))

        return note

    wide, late = on(PRE)(noting("global")), noting("late")
    crew.step_callback = lambda _: seen.append(("step", 0))
    crew.task_callback = lambda _: seen.append(("task", 0))
    crew.before_kickoff_callbacks.append(lambda inputs: seen.append(("kickoff", 0)) or inputs)
    script.says([IN], "the end")
    try:
        with scoped_hooks():
            register_scoped(PRE, noting("around"))
            register_scoped(POST, noting("after"))
            with guard_crew(crew) as guarded:
                register_scoped(PRE, late)
                guarded.kickoff()
    finally:
        unregister_hook(PRE, wide)
    # One decision, the model's, stands before the tool's: whoever changes the call does so before it is decided.
    before = [("kickoff", 0), ("global", 1), ("around", 1), ("late", 1), ("after", 2)]
    assert [name for name in seen if name[0] != "step"] == [*before, ("task", 0)]
    assert ("step", 0) in seen
    assert len(ran) == 1


def test_events_tell_of_the_users_hooks_and_not_of_the_guards(crew, script, ran):
    heard: list[Any] = []

    def note(_: Any, event: Any) -> None:
        heard.append(event)

    script.says([IN], "the end")
    with crewai_event_bus.scoped_handlers():
        for kind in (HookDispatchedEvent, ToolUsageStartedEvent, ToolUsageFinishedEvent):
            crewai_event_bus.on(kind)(note)
        with guard_crew(crew) as guarded:
            guarded.kickoff()
            crewai_event_bus.flush()
            assert sorted(event.type for event in heard) == ["tool_usage_finished", "tool_usage_started"]
            script.says([IN], "the end")
            register_scoped(POST, lambda context: None)
            guarded.kickoff()
        crewai_event_bus.flush()
    dispatched = [event for event in heard if event.type == "hook_dispatched"]
    assert [(event.interception_point, event.hook_count) for event in dispatched] == [("post_tool_call", 2)]
    assert len(ran) == 2


def test_what_a_users_hook_changes_is_what_is_decided(crew, script, ran):
    def change(context: Any) -> None:
        context.tool_input["to"] = "eve@evil.example"

    script.says([IN], "the end")
    with pytest.raises(PolicyBlockError), guard_crew(crew) as guarded:
        register_scoped(PRE, change)
        guarded.kickoff()
    assert ran == []


def test_what_a_users_hook_makes_of_a_result_is_redacted_too(crew, script):
    script.says([LOOK], "the end")
    with guard_crew(crew) as guarded:
        register_scoped(POST, lambda context: context.tool_result + " and carl@acme.com")
        guarded.kickoff()
    assert script.heard() == ["found [EMAIL] and [EMAIL]"]


@pytest.mark.parametrize("how", ["False", "HookAborted"])
def test_a_users_hook_may_block_by_itself(how, crew, audit_events, script, ran):
    def block(context: Any) -> Any:
        if how == "False":
            return False
        raise HookAborted("no")

    script.says([IN], [IN], "the end")
    with guard_crew(crew) as guarded:
        register_scoped(PRE, block)
        assert guarded.kickoff().raw == "the end"
    assert ran == []
    assert [event.kind for event in audit_events(type="call.decided")] == ["llm"] * 3


def test_a_users_hook_that_fails_stops_nothing(crew, script, ran):
    script.says([IN], "the end")
    with guard_crew(crew) as guarded:
        register_scoped(PRE, lambda context: 1 / 0)
        guarded.kickoff()
    assert len(ran) == 1


def test_a_scope_that_hides_the_guards_hooks_is_refused(crew, script, ran):
    script.says([OUT], "the end")

    def work() -> Any:
        with scoped_hooks():
            return crew.kickoff()

    with pytest.raises(TapPassConfigError, match="hides the guard's hooks"):
        guard_crew()(work)()
    assert ran == []
    assert script.asked == []


def test_a_scope_that_is_opened_for_the_tool_call_alone_is_refused(plane, script, ran):
    from crewai.tools import tool as crew_tool

    @crew_tool
    def outer(to: str) -> str:
        """Run a crew."""
        with scoped_hooks():
            return str(crew_of(llm(script, "inner"), ran.tools()).kickoff())

    script.says([("outer", {"to": "x"})], "the end")
    script.says([OUT], "done", model="inner")
    with pytest.raises(TapPassConfigError, match="hides"):
        guard_crew()(crew_of(llm(script), [outer]).kickoff)()
    assert ran == []


@pytest.mark.parametrize("failure", [RuntimeError("broken"), ValueError(), TapPassConnectionError("gone")])
def test_a_hook_of_ours_that_fails_does_not_open_the_gate(failure, crew, audit_events, monkeypatch, script, ran):
    before = Interception.before

    def broken(self: Any) -> Any:
        if self.kind == "tool":
            raise failure
        return before(self)

    monkeypatch.setattr(Interception, "before", broken)
    script.says([IN], "the end")
    with pytest.raises((TapPassConfigError, TapPassConnectionError)):
        guard_crew(on_block="tell")(crew.kickoff)()
    assert ran == []
    assert len(script.asked) == 1


def test_a_result_whose_settling_fails_is_not_shown(crew, monkeypatch, script, ran):
    after = Interception.after

    def broken(self: Any, *given: Any, **rest: Any) -> Any:
        if self.kind == "tool":
            raise RuntimeError("broken")
        return after(self, *given, **rest)

    monkeypatch.setattr(Interception, "after", broken)
    script.says([LOOK], "the end")
    with pytest.raises(TapPassConfigError, match="was not shown"):
        guard_crew()(crew.kickoff)()
    assert len(ran) == 1
    assert len(script.asked) == 1


def test_a_model_whose_hook_fails_is_not_asked(crew, monkeypatch, script):
    monkeypatch.setattr(Interception, "before", lambda self: 1 / 0)
    with pytest.raises(TapPassConfigError, match="the model"):
        guard_crew()(crew.kickoff)()
    assert script.asked == []


def test_arguments_that_are_read_differently_each_time_are_refused(plane, script, ran):
    import itertools

    from crewai.tools import BaseTool
    from pydantic import Field

    numbers = itertools.count()

    class Asked(BaseModel):
        text: str
        number: Any = Field(default_factory=lambda: next(numbers))

    class Odd(BaseTool):
        name: str = "odd"
        description: str = "odd"
        args_schema: type[BaseModel] = Asked

        def _run(self, text: str, number: int) -> str:
            ran.append(number)
            return "ok"

    script.says([("odd", {"text": "x"})], "the end")
    guard_crew()(crew_of(llm(script), [Odd()]).kickoff)()
    # What was decided is what it got: the first reading, not a later one.
    assert ran == [0]

    class Growing(Odd):
        args_schema: type[BaseModel] = type(
            "Growing",
            (Asked,),
            {"__annotations__": {}, "model_post_init": lambda self, _: setattr(self, "text", self.text + "!")},
        )

    ran.clear()
    script.says([("odd", {"text": "x"})], "the end")
    with pytest.raises(TapPassConfigError, match="arguments change"):
        guard_crew()(crew_of(llm(script), [Growing()]).kickoff)()
    assert ran == []


def test_arguments_that_are_no_object_run_nothing(crew, script, ran):
    script.says([("send", ["x"])], "the end")
    guard_crew()(crew.kickoff)()
    assert ran == []


# What models are asked and say.


def redacting(plane: Any, *fields: str) -> None:
    plane.policy(
        f"version: 1\nrules: [{{id: m, llm: '*', effect: redact, fields: [{', '.join(fields)}], kinds: [EMAIL]}}]"
    )


def test_a_model_reads_a_redacted_prompt(plane, script, ran):
    redacting(plane, "prompt")
    crew = crew_of(llm(script), ran.tools())
    crew.tasks[0].description = "write to ann@acme.com"
    guard_crew()(crew.kickoff)()
    assert "[EMAIL]" in str(script.asked)
    assert "ann@acme.com" not in str(script.asked)


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_model_says_is_redacted(stream, plane, script, ran):
    redacting(plane, "result")
    script.says("ask ann@acme.com")
    result = guard_crew()(crew_of(llm(script, stream=stream), ran.tools()).kickoff)()
    assert result.raw.strip() == "ask [EMAIL]"


def test_an_answer_of_a_shape_is_redacted_or_withheld(plane, script, ran):
    class Person(BaseModel):
        mail: str

    redacting(plane, "result")
    script.says('{"mail": "ann@acme.com"}')
    crew = crew_of(llm(script), [])
    crew.tasks[0].output_pydantic = Person
    assert guard_crew()(crew.kickoff)().pydantic == Person(mail="[EMAIL]")


def test_tool_calls_that_would_need_redaction_are_not_used(plane, script, ran):
    redacting(plane, "result")
    script.says([IN], "the end")
    with pytest.raises(PolicyBlockError, match="cannot be given another"):
        guard_crew()(crew_of(llm(script), ran.tools()).kickoff)()
    assert ran == []


def test_a_model_that_is_called_directly_is_decided(plane, audit_events, script):
    def work(model: str) -> Any:
        return llm(script, model).call("ask ann@acme.com")

    redacting(plane, "prompt", "result")
    script.says("bob@acme.com")
    assert guard_crew()(work)("gpt-4o-mini") == "[EMAIL]"
    assert "ann@" not in str(script.asked)
    assert [event.tokens for event in audit_events(type="call.ended")] == [(11, 7)]
    plane.policy("version: 1\nrules: [{id: no, llm: 'bad-*', effect: block}]")
    with pytest.raises(PolicyBlockError):
        guard_crew()(work)("bad-1")
    assert len(script.asked) == 1


class Apart(BaseLLM):
    """A model whose provider keeps the system prompt apart, as Anthropic's, Google's and Amazon's do."""

    asked: list[Any] = Field(default_factory=list)

    def call(self, messages: Any, tools: Any = None, *_: Any, **__: Any) -> str:
        with llm_call_context():
            self._emit_call_started_event(messages=messages, tools=tools)
            apart = [message for message in messages if message["role"] != "system"]
            self._invoke_before_llm_call_hooks(apart)
            self.asked.append(messages)
            self._emit_call_completed_event(response="hello", call_type=LLMCallType.LLM_CALL)
            return self._invoke_after_llm_call_hooks(apart, "hello")


@pytest.mark.parametrize("seen", ['args.prompt.contains("secret")', "size(args.tools) == 1"])
def test_policy_sees_what_a_provider_does_not_give_to_hooks(seen, plane, audit_events):
    model = Apart(model="apart")
    asked = [{"role": "system", "content": "secret"}, {"role": "user", "content": "hi"}]
    plane.policy(f"version: 1\nrules: [{{id: no, llm: apart, when: '{seen}', effect: block}}]")
    with pytest.raises(PolicyBlockError, match="no"):
        guard_crew()(lambda: model.call(asked, [SCHEMA]))()
    assert model.asked == []
    assert guard_crew()(lambda: model.call(asked[1:]))() == "hello"
    redacting(plane, "prompt")
    asked[0]["content"] = "for ann@acme.com"
    with pytest.raises(TapPassError):
        guard_crew()(lambda: model.call(asked))()
    assert len(model.asked) == 1


@pytest.mark.skipif(not hasattr(llm_hooks, "model_call_hooks_dispatched"), reason="an older CrewAI makes none")
def test_a_model_call_behind_the_hooks_is_decided(plane, audit_events, script):
    def work(model: str) -> Any:
        # As CrewAI does for its summaries.
        with llm_hooks.model_call_hooks_dispatched():
            return llm(script, model).call("hi")

    script.says("hello")
    assert guard_crew()(work)("gpt-4o-mini") == "hello"
    assert [event.tokens for event in audit_events(type="call.ended")] == [(11, 7)]
    with pytest.raises(PolicyBlockError):
        guard_crew()(work)("bad-1")
    assert len(script.asked) == 1


SCHEMA = {"type": "function", "function": {"name": "send", "parameters": {"type": "object", "properties": {}}}}
LOOKING = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("awaited", [False, True])
def test_a_tool_that_a_model_object_runs_by_itself_is_decided(awaited, plane, audit_events, script, ran):
    functions = {tool.name: tool.func for tool in ran.tools()}

    def work(*turns: Any) -> Any:
        script.says(*turns)
        model = llm(script)
        if awaited:
            return asyncio.run(model.acall("hi", tools=[SCHEMA, LOOKING], available_functions=functions))
        return model.call("hi", tools=[SCHEMA, LOOKING], available_functions=functions)

    assert guard_crew()(work)([IN]) == "sent to ann@acme.com"
    with pytest.raises(PolicyBlockError):
        guard_crew()(work)([OUT])
    assert ran == [("send", "ann@acme.com", "hello")]
    with pytest.raises(PolicyBlockError, match="cannot be given another"):
        guard_crew()(work)([LOOK])
    names = [(event.name, event.outcome) for event in audit_events(type="call.decided") if event.kind == "tool"]
    assert names == [("send", "allow"), ("send", "block"), ("look", "allow")]


def test_a_failed_model_call_is_on_record(plane, audit_events, script):
    def work() -> Any:
        return LLM(model="openai/gpt-4o-mini", base_url="http://127.0.0.1:9/v1", api_key="x", max_retries=0).call("hi")

    with pytest.raises(Exception, match=r"[Cc]onnect"):
        guard_crew()(work)()
    assert [event.status for event in audit_events(type="call.ended")] == ["failed"]


def test_written_calls_of_an_unknown_tool_run_nothing(plane, script, ran):
    from tests.adapters.crewai.crews import Plain

    model = Plain(model="plain")
    model.turns, model.asked = [acts("steal", {"to": "x"})], []
    guard_crew()(crew_of(model, ran.tools()).kickoff)()
    assert ran == []


def test_an_agent_that_is_shared_by_two_guarded_crews_is_governed_by_each(plane, audit_events, script, ran):
    clerk = agent(llm(script), ran.tools())
    for name in ("one", "two"):
        script.says([IN], "the end")
        crew = crew_of(llm(script), ran.tools(), name=name)
        crew.agents[0] = crew.tasks[0].agent = clerk
        guard_crew()(crew.kickoff)()
    assert len(ran) == 2
    assert len(audit_events(type="session.opened")) == 2


def test_an_agent_that_another_framework_runs_is_refused(plane, script, ran):
    from crewai.agents.agent_adapters.base_agent_adapter import BaseAgentAdapter
    from crewai.events import crewai_event_bus
    from crewai.events.types.agent_events import AgentExecutionStartedEvent

    class Foreign(BaseAgentAdapter):
        function_calling_llm: Any = None
        step_callback: Any = None

        def execute_task(self, task: Any, context: Any = None, tools: Any = None) -> str:
            started = AgentExecutionStartedEvent(agent=self, task=task, tools=[], task_prompt="p")
            crewai_event_bus.emit(self, event=started)
            ran.append("anything")
            return "done"

        async def aexecute_task(self, task: Any, context: Any = None, tools: Any = None) -> str:
            return self.execute_task(task, context, tools)

        def create_agent_executor(self, tools: Any = None) -> None: ...

        def configure_tools(self, tools: Any = None) -> None: ...

        def configure_structured_output(self, structured_output: Any) -> None: ...

        def get_delegation_tools(self, agents: Any) -> list[Any]:
            return []

        def get_platform_tools(self, apps: Any) -> list[Any]:
            return []

        def get_mcp_tools(self, mcps: Any) -> list[Any]:
            return []

        def get_output_converter(self, *_: Any, **__: Any) -> Any: ...

    foreign = Foreign(role="r", goal="g", backstory="b", llm=llm(script))
    crew = Crew(agents=[foreign], tasks=[Task(description="d", expected_output="e", agent=foreign)])
    with pytest.raises(TapPassConfigError, match="does not see what Foreign does"):
        guard_crew()(crew.kickoff)()
    assert ran == []
