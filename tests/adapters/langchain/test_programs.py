"""Programs as LangChain's own pages write them: they run under the guard as without it, or are refused clearly."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.pregel.remote import RemoteGraph

from tappass import PolicyBlockError, TapPassConfigError, TapPassError, guard_agent, guard_agent_async
from tests.adapters.langchain.mail import ASK, IN, OUT, PROMPT, Mail, chat
from tests.adapters.scripted import Say, calls

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SCHEMA = {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}
RESULTS = """
    version: 1
    rules:
      - {id: mask, llm: '*', effect: redact, fields: [result], kinds: [EMAIL]}
"""


class Anything(BaseTool):
    name: str = "send"
    description: str = "Send a mail."
    args_schema: Any = SCHEMA
    ran: Any = None

    def _run(self, *args: Any, **kwargs: Any) -> str:
        self.ran.append(kwargs)
        return "sent"


class Derived(StructuredTool):
    pass


def open_tool(kind: str, ran: list[Any]) -> BaseTool:
    """Return a tool whose function takes any arguments: those of MCP servers, of Runnables and of classes do."""

    def send(**arguments: Any) -> str:
        ran.append(arguments)
        return "sent"

    async def asend(runtime: Any = None, **arguments: Any) -> tuple[str, None]:
        ran.append(arguments)
        return "sent", None

    given: Any = {"name": "send", "description": "Send a mail."}
    if kind == "mcp":
        return StructuredTool(**given, args_schema=SCHEMA, coroutine=asend, response_format="content_and_artifact")
    if kind == "runnable":
        return RunnableLambda(lambda told: send(**told)).as_tool(**given, arg_types={"to": str})
    if kind == "derived":
        return Derived(**given, args_schema=SCHEMA, func=send)
    return Anything(ran=ran)


@pytest.mark.parametrize("kind", ["mcp", "runnable", "derived", "class"])
def test_policy_sees_the_arguments_of_a_tool_that_takes_any_by_their_names(kind, plane, model):
    ran: list[Any] = []

    async def run() -> None:
        await guard_agent_async()(create_agent(chat(model), [open_tool(kind, ran)]).ainvoke)(ASK)

    model.play(calls(IN))
    anyio.run(run)
    assert ran == [{"to": "ann@acme.com"}]
    model.play(calls(OUT))
    with pytest.raises(PolicyBlockError, match="rule `inside`"):
        anyio.run(run)
    assert len(ran) == 1


def test_what_a_tool_that_takes_any_arguments_gets_is_redacted(plane, model):
    ran: list[Any] = []
    tool = Anything(name="look", ran=ran)
    model.play(calls(("look", {"to": "ann@acme.com"})))
    guard_agent()(create_agent(chat(model), [tool]).invoke)(ASK)
    assert ran == [{"to": "[EMAIL]"}]


def test_an_argument_that_the_model_writes_is_shown_whatever_it_is_called(plane, model):
    class Deploy(BaseTool):
        name: str = "deploy"
        description: str = "Deploy."

        def _run(self, config: str) -> str:
            raise AssertionError("it was blocked")

    plane.policy("version: 1\nrules:\n  - {id: cfg, tool: deploy, when: 'args.config == \"prod\"', effect: block}")
    model.play(calls(("deploy", {"config": "prod"})))
    with pytest.raises(PolicyBlockError, match="cfg"):
        guard_agent()(create_agent(chat(model), [Deploy()]).invoke)(ASK)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "video", "url": "https://acme.com/film"},
        {"type": "text-plain", "text": "hello"},
        {"type": "media", "mime_type": "audio/ogg", "data": b"a"},
        {"type": "image", "source": {"type": "url", "url": "https://acme.com/picture"}},
    ],
    ids=lambda block: block["type"],
)
def test_a_message_that_openai_has_no_shape_for_is_shown_to_policy_as_it_is(block, plane):
    said = HumanMessage([{"type": "text", "text": "what is this?"}, block])
    assert guard_agent()(FakeListChatModel(responses=["a film"]).invoke)([said]).content == "a film"
    plane.policy("version: 1\nrules:\n  - {id: no, llm: '*', when: 'args.messages[0].role == \"user\"', effect: block}")
    with pytest.raises(PolicyBlockError, match="rule `no`"):
        guard_agent()(FakeListChatModel(responses=["a film"]).invoke)([said])


@pytest.mark.parametrize("how", ["messages of a graph", "a model"])
def test_nothing_of_an_answer_that_must_be_redacted_is_streamed(how, plane, model):
    plane.policy(RESULTS)
    model.play(Say(("mail ", "bob@acme", ".com")))
    seen: list[Any] = []
    with pytest.raises(PolicyBlockError, match="must be inspected whole"):
        if how == "a model":
            seen.extend(guard_agent()(chat(model).stream)("hello"))
        else:
            seen.extend(guard_agent()(create_agent(chat(model), []).stream)(ASK, stream_mode="messages"))
    assert seen == []


def test_an_answer_that_is_not_streamed_is_redacted(plane, model):
    plane.policy(RESULTS)
    model.play(Say(("mail ", "bob@acme", ".com")))
    assert guard_agent()(create_agent(chat(model), []).invoke)(ASK)["messages"][-1].content == "mail [EMAIL]"


class Twice(FakeListChatModel):
    """Gives two answers at once, as models do that are asked for `n=2`."""

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text)) for text in self.responses])


def test_every_answer_of_several_is_redacted_wherever_it_can_be_read(plane):
    plane.policy(RESULTS)
    model = Twice(responses=["to ann@acme.com", "to bob@acme.com"])
    ((first, second),) = guard_agent()(lambda: model.generate([[HumanMessage("hi")]]))().generations
    assert [first.message.content, second.message.content] == ["to [EMAIL]"] * 2
    assert [first.text, second.text] == ["to [EMAIL]"] * 2


def test_a_graph_that_runs_elsewhere_is_refused():
    with pytest.raises(TapPassConfigError, match="runs elsewhere"):
        guard_agent()(RemoteGraph("mail", url="http://127.0.0.1:9").invoke)(ASK)


def test_an_executor_is_iterated_over_inside_a_block(plane, model):
    mail = Mail()
    executor = AgentExecutor(agent=create_tool_calling_agent(chat(model), mail.tools(), PROMPT), tools=mail.tools())
    with pytest.raises(TapPassConfigError, match="enter the guard instead"):
        guard_agent()(executor.iter)({"input": "do it"})
    model.play(calls(OUT))
    with pytest.raises(PolicyBlockError), guard_agent(executor) as guarded:
        list(guarded.iter({"input": "do it"}))
    assert mail.ran == []


def test_a_run_that_ended_is_not_iterated_over(plane, model):
    mail = Mail()
    executor = AgentExecutor(agent=create_tool_calling_agent(chat(model), mail.tools(), PROMPT), tools=mail.tools())
    model.play(calls(IN))
    with guard_agent(executor) as guarded:
        steps = guarded.iter({"input": "do it"})
    with pytest.raises(TapPassError):
        list(steps)
    assert mail.ran == []


@pytest.mark.parametrize(
    "wrap",
    [
        lambda graph: graph.with_retry(stop_after_attempt=1),
        lambda graph: graph.with_fallbacks([graph]),
        lambda graph: RunnableLambda(lambda state: state).with_fallbacks([graph]) | graph,
    ],
    ids=["retried", "with fallbacks", "in a sequence"],
)
def test_tools_of_a_wrapped_graph_are_within_reach(wrap, plane, model):
    mail = Mail()
    model.play(calls(OUT, ("look", {"text": "of ann@acme.com"})))
    state = guard_agent(on_block="tell")(wrap(create_agent(chat(model), mail.tools())).invoke)(ASK)
    assert "Not done: " in model.seen[1].text
    assert mail.ran == ["of [EMAIL]"]
    assert state["messages"][-1].content == "all done"
