"""Policy sees exactly what the tool and the model get, whoever has a callback before or after; theirs all fire."""

from __future__ import annotations

import asyncio
import copy
import threading
from typing import Any

import pytest
from google.adk.agents import LlmAgent, RunConfig
from google.adk.apps.app import App, EventsCompactionConfig
from google.adk.apps.llm_event_summarizer import LlmEventSummarizer
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import InMemoryRunner
from google.adk.tools import FunctionTool
from google.genai import types
from google.genai.errors import ServerError
from pydantic import Field

from tappass import PolicyBlockError, TapPassConfigError, govern, guard_adk_agent, tool
from tests.adapters.google_adk.fallback import fallback_model
from tests.adapters.google_adk.gemini import calls, says
from tests.adapters.google_adk.mail import (
    IN,
    OUT,
    PAY,
    Tools,
    awaited,
    ended,
    entered,
    mailer,
    results,
    runner_of,
    streamed,
    sync,
    texts,
)

EVE = "eve@evil.example"


class Plugin(BasePlugin):
    """A user's plugin that notes what it is called with, and may change it."""

    def __init__(self, name: str, log: list[Any], **change: Any) -> None:
        super().__init__(name=name)
        self.log, self.change = log, change

    async def before_tool_callback(self, *, tool: Any, tool_args: Any, tool_context: Any) -> Any:
        self.log.append((self.name, "before_tool", dict(tool_args)))
        tool_args.update(self.change.get("args", {}))
        return self.change.get("answer")

    async def after_tool_callback(self, *, tool: Any, tool_args: Any, tool_context: Any, result: Any) -> Any:
        self.log.append((self.name, "after_tool", dict(tool_args)))

    async def on_tool_error_callback(self, *, tool: Any, tool_args: Any, tool_context: Any, error: Any) -> Any:
        self.log.append((self.name, "tool_error", type(error).__name__))
        return self.change.get("instead")

    async def before_model_callback(self, *, callback_context: Any, llm_request: Any) -> Any:
        self.log.append((self.name, "before_model"))
        for text in self.change.get("prompt", ()):
            llm_request.contents.append(types.Content(role="user", parts=[types.Part(text=text)]))

    async def on_model_error_callback(self, *, callback_context: Any, llm_request: Any, error: Any) -> Any:
        self.log.append((self.name, "model_error", type(error).__name__))
        said = self.change.get("said")
        return LlmResponse(content=types.Content(role="model", parts=[types.Part(text=said)])) if said else None


@pytest.fixture
def tools():
    return Tools()


@pytest.fixture
def log():
    return []


@pytest.mark.parametrize("place", ["plugin before", "plugin after", "agent"])
def test_a_callback_that_changes_arguments_is_before_the_decision(place, here, model, tools, log):
    """It makes an allowed call one that is not; and the other way round."""
    for given, becomes, ran in ((IN, EVE, []), (OUT, "ann@acme.com", [("send", "ann@acme.com")])):
        tools.ran.clear()
        changing = Plugin("changing", log, args={"to": becomes})

        def before_tool(tool: Any, args: Any, tool_context: Any, to: str = becomes) -> None:
            args["to"] = to

        agent = mailer(tools, **({"before_tool_callback": before_tool} if place == "agent" else {}))
        runner = runner_of(agent, plugins=[changing] if place == "plugin before" else [])
        model.add(calls(given), says("Done."))
        with guard_adk_agent(runner, on_block="tell") as guarded:
            if place == "plugin after":
                runner.plugin_manager.register_plugin(changing)
            sync(guarded)
        assert tools.ran == ran
        model.turns.clear()
    assert [e.outcome for e in here.events(type="call.decided", name="send")] == ["block", "allow"]


def test_arguments_that_somebody_kept_cannot_be_changed_while_we_ask(here, model, tools, monkeypatch):
    kept: list[Any] = []
    decide = here.plane.aio.decide

    async def slow(request: Any) -> Any:
        if kept:
            kept[0]["to"]["address"] = EVE
        return await decide(request)

    def post(to: dict[str, str]) -> str:
        """Post to an address."""
        tools.ran.append(to["address"])
        return "posted"

    monkeypatch.setattr(here.plane.aio, "decide", slow)
    model.add(calls(("post", {"to": {"address": "ann@acme.com"}})), says("Done."))
    agent = mailer(tools, tools=[post], before_tool_callback=lambda tool, args, tool_context: kept.append(args))
    entered(runner_of(agent), sync)
    assert tools.ran == ["ann@acme.com"]


def test_the_users_plugins_and_callbacks_fire_in_their_order(here, model, tools, log):
    agent = mailer(
        tools,
        before_tool_callback=lambda tool, args, tool_context: log.append(("agent", "before_tool", dict(args))),
        after_tool_callback=lambda tool, args, tool_context, tool_response: log.append(
            ("agent", "after_tool", dict(args))
        ),
    )
    runner = runner_of(agent, plugins=[Plugin("one", log), Plugin("two", log)])
    model.add(calls(IN), says("Done."))
    sync(runner)
    bare, log[:] = [*log], []
    model.add(calls(IN), says("Done."))
    entered(runner, sync)
    assert log == bare
    assert [entry[:2] for entry in log if entry[1] == "before_tool"] == [
        ("one", "before_tool"),
        ("two", "before_tool"),
        ("agent", "before_tool"),
    ]


def test_the_users_callbacks_are_shown_what_the_tool_got(here, model, tools, log):
    model.add(calls(("look", {"text": "ann@acme.com"})), says("Done."))
    entered(runner_of(mailer(tools), plugins=[Plugin("one", log)]), sync)
    assert ("one", "after_tool", {"text": "[EMAIL]"}) in log


def test_a_plugin_that_answers_for_a_tool_leaves_nothing_to_decide(here, model, tools, log):
    model.add(calls(OUT), says("Done."))
    entered(runner_of(mailer(tools), plugins=[Plugin("one", log, answer={"result": "cached"})]), sync)
    assert tools.ran == []
    assert [name for name, _ in ended(here) if name == "send"] == []


@pytest.mark.parametrize("on", ["plugin", "agent"])
def test_a_callback_that_swallows_our_refusal_does_not_swallow_it(on, here, model, tools, log):
    swallow = {"error": "never mind"}
    agent = mailer(tools, **({"on_tool_error_callback": lambda **_: swallow} if on == "agent" else {}))
    runner = runner_of(agent, plugins=[Plugin("one", log, instead=swallow)] if on == "plugin" else [])
    model.add(calls(OUT), calls(OUT), says("never"))
    with pytest.raises(PolicyBlockError, match="inside"):
        entered(runner, awaited)
    assert tools.ran == []
    assert len(model.seen) == 1


def test_a_callback_that_swallows_a_models_refusal_does_not_swallow_it(here, tools, log):
    llm = Script(model="bad-mine")
    runner = runner_of(mailer(tools, model=llm), plugins=[Plugin("one", log, said="never mind")])
    with pytest.raises(PolicyBlockError, match="no-secrets"):
        entered(runner, awaited)
    assert ("one", "model_error", "PolicyBlockError") in log
    assert llm.asked == []


@pytest.mark.parametrize("run", [awaited, streamed], ids=["whole", "sse"])
def test_what_a_callback_adds_to_a_prompt_is_decided_on(run, here, model, tools, log):
    here.policy("""
        version: 1
        rules:
          - {id: no-codename, llm: '*', when: 'args.prompt.contains("bluebird")', effect: block}
    """)
    agent = mailer(tools, before_model_callback=lambda callback_context, llm_request: _add(llm_request, "bluebird"))
    for plugins, chosen in (([Plugin("one", log, prompt=["bluebird"])], mailer(tools)), ([], agent)):
        with pytest.raises(PolicyBlockError, match="no-codename"):
            entered(runner_of(chosen, plugins=plugins), run)
    assert model.seen == []


def _add(request: Any, text: str) -> None:
    request.contents.append(types.Content(role="user", parts=[types.Part(text=text)]))


@pytest.mark.parametrize("hook", ["expect", "run"])
def test_a_hook_of_ours_that_fails_does_not_open_the_gate(hook, here, model, tools, monkeypatch):
    from tappass_adapters.adk.tools import Tools as Hooks

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(Hooks, hook, broken)
    model.add(calls(IN), says("never"))
    with pytest.raises((ZeroDivisionError, RuntimeError)):
        entered(runner_of(mailer(tools)), awaited)
    assert tools.ran == []


def test_a_plugin_of_our_name_is_not_taken_for_ours(here, model, tools, log):
    runner = runner_of(mailer(tools), plugins=[Plugin("tappass_guard", log)])
    with pytest.raises(TapPassConfigError, match="rename it"):
        entered(runner, awaited)
    assert model.seen == []
    assert [plugin.name for plugin in runner.plugin_manager.plugins] == ["tappass_guard"]
    assert here.events(type="session.opened") == []


def test_a_tool_that_takes_no_method_is_refused():
    from tappass_adapters.arming import arm

    class Slotted:
        __slots__ = ("name",)

    with pytest.raises(TapPassConfigError, match="a Slotted cannot be governed"):
        arm(Slotted(), "run_async", lambda original: original)


def test_a_copy_of_a_tool_that_is_made_inside_a_run_is_governed_and_free_after_it(here, model, tools):
    tool_object = FunctionTool(tools.functions[0])
    copies: list[Any] = []
    agent = mailer(tools, tools=[tool_object])
    model.add(calls(IN), says("Done."), calls(OUT))

    def once(tool: Any, args: Any, tool_context: Any) -> None:
        if not copies:
            copies.append(copy.copy(tool))
            agent.tools[0] = copies[0]

    agent.before_tool_callback = once
    with pytest.raises(PolicyBlockError), guard_adk_agent(runner_of(agent)) as guarded:
        sync(guarded)
        sync(guarded)
    assert tools.ran == [("send", "ann@acme.com")]
    assert ended(here).count(("send", "completed")) == 1
    model.add(calls(OUT))
    agent.before_tool_callback = None
    sync(runner_of(agent))
    assert tools.ran[-1] == ("send", EVE)


def test_one_tool_of_two_runs_in_parallel_stays_governed_while_either_runs(here, model, tools):
    shared = FunctionTool(tools.functions[0])
    first, second = (runner_of(mailer(tools, tools=[shared], name=name, instruction=name)) for name in ("fox", "owl"))
    begun, go_on = threading.Event(), threading.Event()

    def wait(tool: Any, args: Any, tool_context: Any) -> None:
        begun.set()
        assert go_on.wait(30)

    second.agent.before_tool_callback = wait
    model.by_agent = {"fox": _script(calls(IN)), "owl": _script(calls(OUT))}
    failed: list[Any] = []

    def run() -> None:
        try:
            entered(second, sync)
        except PolicyBlockError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(30)
    entered(first, sync)
    go_on.set()
    thread.join()
    assert len(failed) == 1
    assert tools.ran == [("send", "ann@acme.com")]
    assert "run_async" not in vars(shared)


def _script(*turns: Any) -> Any:
    from collections import deque

    return deque(turns)


@pytest.mark.parametrize("how", ["@tool", "govern function", "govern tool"])
def test_a_tool_that_is_governed_already_is_decided_once(how, here, model, tools):
    send, pay, *_ = tools.functions
    if how == "@tool":
        given: Any = [tool(send), tool(pay)]
    elif how == "govern function":
        given = govern([send, pay])
    else:
        given = govern([FunctionTool(send), FunctionTool(pay)])
    runner = runner_of(mailer(tools, tools=given))
    model.add(calls(IN), says("Done."))
    entered(runner, awaited)
    assert ended(here)[1:-1] == [("send", "completed")]
    model.add(calls(OUT), says("Done."))
    events = entered(runner, awaited, on_block="tell")
    assert "Not done: " in results(events)[-1]["error"]
    model.add(calls(PAY))
    entered(runner, awaited)
    assert here.events(type="session.closed")[-1].status == "suspended"
    assert tools.ran == [("send", "ann@acme.com")]


def test_sync_tools_on_adks_thread_pool_are_governed(here, model, tools):
    try:
        from google.adk.agents.run_config import ToolThreadPoolConfig
    except ImportError:
        pytest.skip("this version of ADK has no thread pool for tools")
    runner = runner_of(mailer(tools))
    config = RunConfig(tool_thread_pool_config=ToolThreadPoolConfig(max_workers=2))
    model.add(calls(IN, ("look", {"text": "x"})), says("Done."))
    entered(runner, lambda guarded: awaited(guarded, run_config=config))
    assert sorted(ended(here)[1:-1]) == [("look", "completed"), ("send", "completed")]
    model.add(calls(OUT))
    with pytest.raises(PolicyBlockError):
        entered(runner, lambda guarded: awaited(guarded, run_config=config))


class Script(BaseLlm):
    """A model of the user's own: what it says is in `turns`."""

    turns: list[Any] = Field(default_factory=list)
    asked: list[Any] = Field(default_factory=list)

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
        self.asked.append(llm_request)
        for response in self.turns.pop(0):
            if isinstance(response, Exception):
                raise response
            yield response


def part(*parts: types.Part, **more: Any) -> LlmResponse:
    return LlmResponse(content=types.Content(role="model", parts=[*parts]), **more)


def test_a_model_of_the_users_is_decided_and_recorded(here, tools):
    llm = Script(model="mine", turns=[[part(types.Part(text="Hello."))]])
    before = dict(vars(llm))
    assert texts(entered(runner_of(mailer(tools, model=llm)), awaited)) == "Hello."
    assert ended(here) == [("mine", "completed")]
    assert vars(llm).keys() == before.keys()
    blocked = Script(model="bad-mine")
    with pytest.raises(PolicyBlockError, match="no-secrets"):
        entered(runner_of(mailer(tools, model=blocked)), awaited)
    told = entered(runner_of(mailer(tools, model=blocked)), awaited, on_block="tell")
    assert texts(told).startswith("Not done: ")
    assert blocked.asked == []


def test_a_models_failure_is_recorded_and_comes_out(here, tools):
    llm = Script(model="mine", turns=[[ConnectionError("theirs")]])
    with pytest.raises(ConnectionError, match="theirs"):
        entered(runner_of(mailer(tools, model=llm)), awaited)
    assert ended(here) == [("mine", "failed")]


REDACT = """
    version: 1
    rules:
      - {id: mask, llm: '*', effect: redact, fields: [result, prompt], kinds: [EMAIL]}
"""


@pytest.mark.parametrize("run", [awaited, streamed], ids=["whole", "sse"])
def test_prompts_and_answers_are_redacted_and_no_piece_comes_before(run, plane, model, tools):
    plane.policy(REDACT)
    agent = mailer(tools, instruction="write for ann@acme.com")
    runner = runner_of(agent)
    model.add(calls(("look", {"text": "bob@acme.com"})), says("Write to eve@", "evil.example now."))
    events = entered(runner, run)
    assert "@acme.com" not in model.told()
    assert "[EMAIL]" in model.told()
    assert tools.ran == [("look", "bob@acme.com")]
    said = [p.text for e in events if e.content for p in e.content.parts or [] if p.text]
    assert "".join(said) == "Write to [EMAIL] now."
    session = asyncio.run(runner.session_service.get_session(app_name="mail", user_id="u", session_id="s"))
    assert "evil.example" not in session.model_dump_json()


def test_pieces_come_as_they_are_where_nothing_inspects_them(here, model, tools):
    model.add(says("One ", "two ", "three."))
    events = entered(runner_of(mailer(tools)), streamed)
    partial = [p.text for e in events if e.partial for p in e.content.parts]
    assert partial == ["One ", "two ", "three."]
    assert [e.tokens for e in here.events(type="call.ended")] == [(7, 3)]


def test_what_goes_to_a_model_is_shown_as_messages(here, model, tools):
    here.policy("""
        version: 1
        rules:
          - id: shape
            llm: '*'
            when: >-
              args.messages[0].role == "system" && args.messages[0].content.contains("mail")
              && args.messages[1].role == "user" && args.messages[1].content == "go"
              && size(args.tools) == 5 && args.tools[0].function.name == "send"
              && args.parameters.temperature == 0.5
            effect: block
    """)
    agent = mailer(tools, generate_content_config=types.GenerateContentConfig(temperature=0.5))
    with pytest.raises(PolicyBlockError, match="shape"):
        entered(runner_of(agent), awaited)


def _executor(ran: list[str], **options: Any) -> Any:
    from google.adk.code_executors import BaseCodeExecutor
    from google.adk.code_executors.code_execution_utils import CodeExecutionResult

    class Executor(BaseCodeExecutor):
        def execute_code(self, invocation_context: Any, code_execution_input: Any) -> Any:
            ran.append(code_execution_input.code)
            return CodeExecutionResult(stdout="4")

    return Executor(**options)


def test_code_that_a_model_writes_is_decided_before_it_runs(here, tools):
    ran: list[str] = []
    here.policy("""
        version: 1
        rules:
          - {id: harmless, tool: execute_code, when: 'args.code.contains("rmtree")', effect: block}
    """)

    def agent(code: str) -> LlmAgent:
        text = f"```python\n{code}\n```"
        llm = Script(model="mine", turns=[[part(types.Part(text=text))], [part(types.Part(text="4"))]])
        return mailer(tools, model=llm, tools=[], code_executor=_executor(ran))

    entered(runner_of(agent("print(2 + 2)")), awaited)
    assert ran == ["print(2 + 2)"]
    assert ("execute_code", "completed") in ended(here)
    with pytest.raises(PolicyBlockError, match="harmless"):
        entered(runner_of(agent("shutil.rmtree('/')")), awaited)
    assert len(ran) == 1


def test_code_that_runs_before_the_model_is_asked_is_decided(here, tools):
    ran: list[str] = []

    here.policy("version: 1\nrules:\n  - {id: harmless, tool: execute_code, effect: block}")
    llm = Script(model="mine", turns=[[part(types.Part(text="Hello."))]])
    runner = runner_of(mailer(tools, model=llm, tools=[], code_executor=_executor(ran, optimize_data_file=True)))
    data = types.Part(inline_data=types.Blob(mime_type="text/csv", data=b"a,b\n1,2\n"))
    with pytest.raises(PolicyBlockError, match="harmless"):
        entered(runner, lambda guarded: awaited(guarded, new_message=types.Content(role="user", parts=[data])))
    assert (ran, llm.asked) == ([], [])


def test_a_generator_is_decided_and_refused_where_its_result_is_inspected(here, model, tools):
    if not hasattr(FunctionTool, "_should_run_generator_as_node"):
        pytest.skip("this version of ADK does not run generators")

    def count(to: int) -> Any:
        """Count."""
        tools.ran.append(to)
        yield {"counted": to}

    runner = runner_of(mailer(tools, tools=[count]))
    model.add(calls(("count", {"to": 2})), says("Done."))
    entered(runner, awaited)
    assert ("count", "completed") in ended(here)
    here.policy("version: 1\nrules:\n  - {id: mask, tool: '*', effect: redact, fields: [result], kinds: [EMAIL]}")
    before = len(tools.ran)
    model.add(calls(("count", {"to": 2})))
    with pytest.raises(TapPassConfigError, match="policy inspects its result"):
        entered(runner, awaited)
    assert len(tools.ran) == before


def test_each_model_that_a_fallback_tries_is_decided_by_its_own_name(here, tools):
    fallback = fallback_model()
    first = Script(model="mine", turns=[[ServerError(503, {})], [ServerError(503, {})]])
    second = Script(model="bad-mine")
    agent = mailer(tools, model=fallback(models=[first, second]))
    with pytest.raises(PolicyBlockError, match="no-secrets"):
        entered(runner_of(agent), awaited)
    assert second.asked == []
    second.model = "other"
    second.turns = [[part(types.Part(text="Hello."))]]
    assert texts(entered(runner_of(agent), awaited)) == "Hello."
    assert ended(here) == [("mine", "failed"), ("bad-mine", ""), ("mine", "failed"), ("other", "completed")]
    assert "_delegate" not in vars(agent.model)


def _summed(tools: Tools, summarizer: Any, llm: Any = None) -> Any:
    llm = llm or Script(model="mine", turns=[[part(types.Part(text="Hello."))]])
    config = EventsCompactionConfig(compaction_interval=1, overlap_size=0, summarizer=summarizer)
    runner = InMemoryRunner(app=App(name="mail", root_agent=mailer(tools, model=llm), events_compaction_config=config))
    runner.auto_create_session = True
    return runner


def _summaries(runner: Any) -> list[str]:
    session = asyncio.run(runner.session_service.get_session(app_name="mail", user_id="u", session_id="s"))
    compacted = [e.actions.compaction.compacted_content for e in session.events if e.actions.compaction]
    return [content.parts[0].text for content in compacted]


def test_a_summary_of_the_history_is_a_model_call_like_any(here, tools):
    writer = Script(model="writer", turns=[[part(types.Part(text="They met."))]])
    runner = _summed(tools, LlmEventSummarizer(llm=writer))
    assert texts(entered(runner, awaited)) == "Hello."
    if not writer.asked:
        pytest.skip("this version of ADK does not sum up here")
    assert ended(here) == [("mine", "completed"), ("writer", "completed")]
    assert _summaries(runner) == ["They met."]
    assert "maybe_summarize_events" not in vars(runner.app.events_compaction_config.summarizer)


def test_a_refused_summary_is_not_written_and_a_told_one_leaves_the_history(here, tools):
    writer = Script(model="other", turns=[[part(types.Part(text="They met."))]])
    awaited(_summed(tools, LlmEventSummarizer(llm=writer)))
    if not writer.asked:
        pytest.skip("this version of ADK does not sum up here")
    writer = Script(model="bad-writer")
    with pytest.raises(PolicyBlockError, match="no-secrets"):
        entered(_summed(tools, LlmEventSummarizer(llm=writer)), awaited)
    assert here.events(type="session.closed")[-1].status == "failed"
    runner = _summed(tools, LlmEventSummarizer(llm=writer))
    assert texts(entered(runner, awaited, on_block="tell")) == "Hello."
    assert here.events(type="session.closed")[-1].status == "completed"
    assert (_summaries(runner), writer.asked) == ([], [])


def test_a_history_that_is_long_already_is_not_summed_up_undecided(here, tools):
    """Before the first turn of a run, with the agent's own model."""
    here.policy("version: 1\nrules:\n  - {id: quiet, llm: '*', effect: block}")
    llm = Script(model="mine", turns=[[part(types.Part(text="Hello."), usage_metadata=_LONG)] for _ in range(4)])
    agent = mailer(tools, model=llm)
    config = EventsCompactionConfig(compaction_interval=99, overlap_size=0, token_threshold=10, event_retention_size=0)
    runner = runner_of(agent)
    later = InMemoryRunner(app=App(name="mail", root_agent=agent, events_compaction_config=config))
    later.session_service = runner.session_service
    awaited(runner)
    with pytest.raises(PolicyBlockError, match="quiet"):
        entered(later, awaited)
    assert len(llm.asked) == 1


_LONG = types.GenerateContentResponseUsageMetadata(prompt_token_count=999, candidates_token_count=1)
