"""Every ordered pair of guards, `@governed` and `@tool` on one callable: another one around is the parent session."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest
from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

import tappass
from tappass import TapPassConfigError, governed, tool
from tests.adapters.scripted import MODEL, ScriptedModel, calls

# By a package of its framework: crewai and google-adk are never in one environment.
GUARDS = {
    "guard_agent": "langchain",
    "guard_crew": "crewai",
    "guard_adk_agent": "google-adk",
    "guard_openai_run": "openai-agents",
}


def put_on(name: str) -> Callable[[Any], Any]:
    if name in ("governed", "tool"):
        return governed(name="governed") if name == "governed" else tool(name="work")
    return getattr(tappass, name)(name=name)


INSTALLED = {distribution.name for distribution in metadata.distributions()}
STACKED = [*(name for name, package in GUARDS.items() if package in INSTALLED), "governed", "tool"]


@pytest.fixture
def model():
    set_tracing_disabled(True)
    with ScriptedModel() as scripted:
        yield scripted


def working(model: ScriptedModel, ran: list[str]) -> Callable[[], str]:
    """Return a function that runs an agent, so that every guard finds something to govern."""

    @function_tool
    def look(text: str) -> str:
        """Look."""
        ran.append(text)
        return text

    def work() -> str:
        chat = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(base_url=f"{model.url}/v1", api_key="x"))
        return str(Runner.run_sync(Agent(name="clerk", model=chat, tools=[look]), "go").final_output)

    return work


@pytest.mark.parametrize(("outer", "inner"), itertools.product(STACKED, repeat=2))
def test_two_on_one_callable_are_parent_and_child(outer, inner, model, tappass_plane, audit_events):
    ran: list[str] = []
    model.play(calls(("look", {"text": "here"})))
    stacked = put_on(outer)(put_on(inner)(working(model, ran)))
    assert stacked() == "all done"
    assert ran == ["here"]
    names = [name for name in dict.fromkeys((outer, inner)) if name != "tool"]
    rows = {row.name: row for row in tappass_plane.plane.engine.store.read.sessions() if row.kind != "implicit"}
    assert set(rows) == set(names)
    assert {row.status for row in rows.values()} <= {"completed"}
    parents = [rows[name].parent for name in names]
    assert parents == ["", *(rows[name].session_id for name in names)][: len(names)]
    decided = [e.name for e in audit_events(type="call.decided", kind="tool")]
    guarded = "guard_openai_run" in names
    assert decided == [*(["work"] if "tool" in (outer, inner) else []), *(["look"] if guarded else [])]


@pytest.mark.parametrize("name", [name for name in STACKED if name != "tool"])
def test_the_same_one_with_other_options_is_refused(name, model):
    once = put_on(name)(working(model, []))
    with pytest.raises(TapPassConfigError, match=r"other options: \['name'\]"):
        (governed if name == "governed" else getattr(tappass, name))(name="another")(once)
