"""govern([...]) of CrewAI's tools: the same kind of tool, decided on every path by which it runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from crewai.tools import BaseTool
from crewai.tools import tool as crew_tool
from crewai.tools.base_tool import Tool
from crewai.tools.structured_tool import CrewStructuredTool
from pydantic import BaseModel
from tappass_adapters.crewai.tools import ToolFailure

from tappass import PolicyBlockError, TapPassConfigError, govern, guard_crew, tappass_session, tool
from tests.adapters.crewai.crews import Plain, acts, crew_of, llm

# CrewAI leaves the sockets of its clients to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RAN: list[Any] = []
IN, OUT = "ann@acme.com", "eve@evil.example"


class Asked(BaseModel):
    to: str
    text: str = "hello"


class Sender(BaseTool):
    name: str = "send"
    description: str = "Send a message."
    args_schema: type[BaseModel] = Asked
    sign: str = ""

    def _run(self, to: str, text: str = "hello") -> str:
        RAN.append((to, text + self.sign))
        return f"sent to {to}"

    async def _arun(self, to: str, text: str = "hello") -> str:
        RAN.append((to, text + self.sign))
        return f"sent to {to}"


class Waiting(Sender):
    async def _run(self, to: str, text: str = "hello") -> str:  # type: ignore[override]
        RAN.append((to, text))
        return f"sent to {to}"


class Own(Sender):
    def run(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(*args, **kwargs)


def function_tool() -> Any:
    @crew_tool("send")
    def send(to: str, text: str = "hello") -> str:
        """Send a message."""
        RAN.append((to, text))
        return f"sent to {to}"

    return send


def async_tool() -> Any:
    @crew_tool("send")
    async def send(to: str, text: str = "hello") -> str:
        """Send a message."""
        RAN.append((to, text))
        return f"sent to {to}"

    return send


def structured() -> Any:
    def send(to: str, text: str = "hello") -> str:
        """Send a message."""
        RAN.append((to, text))
        return f"sent to {to}"

    return CrewStructuredTool.from_function(send)


MADE: dict[str, Any] = {
    "function": function_tool, "async function": async_tool, "class": Sender, "async class": Waiting, "own run": Own,
}  # fmt: skip
PATHS: dict[str, Any] = {
    "run": lambda t, to: t.run(to=to),
    "run positional": lambda t, to: t.run(to),
    "arun": lambda t, to: asyncio.run(t.arun(to=to)),
    "_run": lambda t, to: waited(t._run(to=to)),
    "_run positional": lambda t, to: waited(t._run(to, "hello")),
    "structured": lambda t, to: t.to_structured_tool().invoke({"to": to}),
    "structured async": lambda t, to: waited(asyncio.run(t.to_structured_tool().ainvoke({"to": to}))),
    "copy": lambda t, to: t.model_copy().run(to=to),
    "updated": lambda t, to: t.model_copy(update={"description": "other"}).run(to=to),
}


def waited(result: Any) -> Any:
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


@pytest.fixture(autouse=True)
def _nothing_ran(plane):
    RAN.clear()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("made", MADE)
def test_every_path_of_a_tool_is_decided_once(made, path, audit_events):
    given = MADE[made]()
    if made == "function" and path == "arun":
        pytest.skip("it has none")
    if made == "own run" and path == "run positional":
        pytest.skip("refused: see arguments without names")
    (governed,) = govern([given])
    with tappass_session():
        assert PATHS[path](governed, IN) == f"sent to {IN}"
        with pytest.raises(PolicyBlockError, match="inside"):
            PATHS[path](governed, OUT)
    assert RAN == [(IN, "hello")]
    assert [(event.name, event.outcome) for event in audit_events(type="call.decided")] == [
        ("send", "allow"), ("send", "block"),
    ]  # fmt: skip


@pytest.mark.parametrize("made", [*MADE.values(), structured])
def test_a_governed_tool_is_what_it_was(made):
    given = made()
    (governed,) = govern([given])
    assert isinstance(governed, type(given))
    assert type(governed).__name__ == type(given).__name__
    assert governed is not given
    assert govern([governed])[0] is governed
    for name in type(given).model_fields:
        if name != "func":
            assert getattr(governed, name) == getattr(given, name)
    assert governed.args_schema is given.args_schema
    assert governed.formatted_description == given.formatted_description
    # The one that was given is as it was.
    waited(given._run(to=OUT))
    assert len(RAN) == 1


def test_a_structured_tool_is_decided_on_every_path(audit_events):
    (governed,) = govern([structured()])
    for path in (
        lambda: governed.invoke({"to": OUT}),
        lambda: asyncio.run(governed.ainvoke({"to": OUT})),
        lambda: governed._run(OUT),
        lambda: governed.model_copy().invoke({"to": OUT}),
        lambda: governed.func(to=OUT),
    ):
        with tappass_session(), pytest.raises(PolicyBlockError):
            path()
    assert RAN == []


def test_a_copy_with_other_fields_runs_as_those_fields_say():
    (governed,) = govern([Sender()])
    governed.model_copy(update={"sign": " - ann"}).run(to=IN)
    assert RAN == [(IN, "hello - ann")]


def test_governing_a_class_leaves_its_place_in_crewais_registry():
    from crewai.tools.base_tool import _TOOL_TYPE_REGISTRY

    before = _TOOL_TYPE_REGISTRY[Sender().tool_type]
    govern([Sender()])
    assert _TOOL_TYPE_REGISTRY[Sender().tool_type] is before is Sender


def test_arguments_without_names_are_refused():
    class Odd(BaseTool):
        name: str = "odd"
        description: str = "odd"

        def _run(self, *words: str) -> str:
            return "ran"

    (governed,) = govern([Odd()])
    with pytest.raises(TapPassConfigError, match="have no name"):
        governed.run("a", "b")

    class Positional(BaseTool):
        name: str = "odd"
        description: str = "odd"

        def _run(self, word: str, /) -> str:
            return "ran"

    with pytest.raises(TapPassConfigError, match="without names"):
        govern([Positional()])


def test_a_tool_that_takes_any_names_is_decided_by_them(tappass_plane, audit_events):
    class Free(BaseTool):
        name: str = "any"
        description: str = "any"

        def _run(self, **kwargs: Any) -> str:
            RAN.append(kwargs)
            return "ran"

    tappass_plane.policy("version: 1\nrules: [{id: no, tool: any, when: args.colour == 'red', effect: block}]")
    (governed,) = govern([Free()])
    governed.run(colour="blue")
    with pytest.raises(PolicyBlockError):
        governed.run(colour="red")
    assert RAN == [{"colour": "blue"}]


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("made", MADE)
def test_a_governed_tool_in_a_guarded_crew_is_decided_once(made, written, audit_events, script):
    tools = govern([MADE[made]()])
    guard_crew()(crew_of(model(written, script, IN), tools).kickoff)()
    assert RAN == [(IN, "hello")]
    assert len([event for event in audit_events(type="call.decided") if event.kind == "tool"]) == 1
    with pytest.raises(PolicyBlockError):
        guard_crew()(crew_of(model(written, script, OUT), tools).kickoff)()
    assert guard_crew(on_block="tell")(crew_of(model(written, script, OUT), tools).kickoff)().raw == "the end"
    assert RAN == [(IN, "hello")]


def model(written: bool, script: Any, to: str) -> Any:
    if not written:
        script.says([("send", {"to": to})], "the end")
        return llm(script)
    made = Plain(model="plain")
    made.turns, made.asked = [acts("send", {"to": to})], []
    return made


def test_a_governed_tool_refuses_in_a_crew_without_a_guard(script):
    script.says([("send", {"to": OUT})], "the end")
    assert crew_of(llm(script), govern([function_tool()])).kickoff().raw == "the end"
    assert RAN == []
    assert "blocked by rule" in script.heard()[0]


@pytest.mark.skipif(ToolFailure is None, reason="an older CrewAI knows no tools that fail")
def test_a_refusal_is_never_the_tasks_answer(script):
    @crew_tool("send", result_as_answer=True)
    def send(to: str) -> str:
        """Send."""
        return "sent"

    script.says([("send", {"to": OUT})], "the end")
    assert guard_crew(on_block="tell")(crew_of(llm(script), govern([send])).kickoff)().raw == "the end"
    assert script.heard()[0].startswith("Not done")


def test_a_crews_tool_made_of_a_governed_function_is_decided_once(audit_events, script):
    @crew_tool("send")
    @tool
    def send(to: str) -> str:
        """Send."""
        RAN.append(to)
        return "sent"

    assert govern([send]) == [send]
    script.says([("send", {"to": IN})], "the end")
    guard_crew()(crew_of(llm(script), [send]).kickoff)()
    assert RAN == [IN]
    assert len([event for event in audit_events(type="call.decided") if event.kind == "tool"]) == 1


def test_a_tool_that_runs_in_ways_of_its_own_is_governed_on_those(audit_events):
    class Special(Tool):  # type: ignore[type-arg]
        def _run(self, *args: Any, **kwargs: Any) -> Any:
            return "special " + str(self.func(*args, **kwargs))

    base = function_tool()
    special = Special(name="send", description="d", func=base.func, args_schema=base.args_schema)
    (governed,) = govern([special])
    with tappass_session(), pytest.raises(PolicyBlockError):
        governed._run(to=OUT)
    with tappass_session(), pytest.raises(PolicyBlockError):
        governed.run(to=OUT)
    assert RAN == []
