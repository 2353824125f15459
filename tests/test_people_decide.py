"""What people set reaches every way of calling, tools and chat, sync and async; what it raises crosses processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from tappass import Agent, AsyncAgent, Session, tappass_session, tool
from tappass.engine import http_clients
from tappass.errors import BreakGlassActive, GovernanceDecision, ToolIntegrityViolation, TrustTierDenied
from tappass.testing import memory_plane
from tests.fake_model import FakeModel
from tests.people import ADA, People

POLICY = """
version: 1
rules:
  - {id: tools, tool: pay, effect: require_tier, tier: trusted}
  - {id: models, llm: "*", effect: require_tier, tier: trusted}
"""
OFFERED = {"type": "function", "function": {"name": "pay", "description": "Pay.", "parameters": {"type": "object"}}}

Way = Callable[..., Any]


@pytest.fixture
def people() -> Iterator[People]:
    with FakeModel() as model:
        upstream = f'[[upstream]]\nmatch = "*"\nbase_url = "{model.base_url}"\n'
        with memory_plane(POLICY, upstream + '[tools]\nintegrity = "first-use"\n') as plane:
            yield People(plane)
        http_clients.close()


def versions() -> tuple[Any, Any]:
    """Return a tool, and one that took its name with another definition."""

    def pay(amount: int) -> int:
        return amount

    first = tool(name="pay")(pay)

    def pay(amount: int, to: str = "") -> int:
        return amount

    return first, tool(name="pay")(pay)


def by_tool(changed: bool, **options: Any) -> Any:
    first, second = versions()
    return (second if changed else first)(3)


def by_async_tool(changed: bool, **options: Any) -> Any:
    async def apay(amount: int) -> int:
        return amount

    async def apay2(amount: int, to: str = "") -> int:
        return amount

    apay2.__qualname__ = apay.__qualname__
    first, second = tool(name="pay")(apay), tool(name="pay")(apay2)
    return anyio.run((second if changed else first), 3)


def turn(changed: bool, more: dict[str, Any]) -> dict[str, Any]:
    function = OFFERED["function"] | ({"description": "Pay whom I say."} if changed else {})
    return {"prompt": "Hello", "tools": [OFFERED | {"function": function}]} | more


def by_chat(changed: bool, **more: Any) -> Any:
    return Agent().chat(**turn(changed, more))


def by_stream(changed: bool, **more: Any) -> Any:
    return list(Agent().stream(**turn(changed, more)))


def by_async_chat(changed: bool, **more: Any) -> Any:
    async def main() -> Any:
        async with AsyncAgent() as agent:
            return await agent.chat(**turn(changed, more))

    return anyio.run(main)


def by_async_stream(changed: bool, **more: Any) -> Any:
    async def main() -> Any:
        async with AsyncAgent() as agent, agent.stream(**turn(changed, more)) as stream:
            return [chunk async for chunk in stream]

    return anyio.run(main)


@pytest.fixture(params=[by_tool, by_async_tool, by_chat, by_async_chat, by_stream, by_async_stream])
def way(request: pytest.FixtureRequest) -> Way:
    return request.param


def raised(kind: type[GovernanceDecision], act: Callable[[], Any]) -> Any:
    """Return the error that an act ends with, as another process would get it."""
    with pytest.raises(kind) as caught:
        act()
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is kind
    assert vars(again) == vars(caught.value)
    assert again.session_id
    assert again.task_id
    return again


def test_a_tier_denies(people: People, way: Way) -> None:
    with tappass_session(agent="clerk"):
        error = raised(TrustTierDenied, lambda: way(False))
        assert (error.required_tier, error.actual_tier) == ("trusted", "standard")
        people.agents.set_tier(ADA, "clerk", "trusted", "reviewed")
        assert way(False)


def test_a_changed_definition_is_caught(people: People, way: Way) -> None:
    with tappass_session(agent="clerk"):
        raised(TrustTierDenied, lambda: way(False))
        people.agents.set_tier(ADA, "clerk", "trusted", "reviewed")
        assert way(False)
        error = raised(ToolIntegrityViolation, lambda: way(True))
        assert (error.tool_name, error.violation) == ("pay", "hash_mismatch")
        people.pins.approve(ADA, people.pins.all()[-1], "read the diff")
        assert way(True)


def test_break_glass_is_raised_unless_respected(people: People, way: Way) -> None:
    glass = people.break_glass("relax")
    with tappass_session(agent="clerk") as session:
        error = raised(BreakGlassActive, lambda: way(False))
        assert (error.level, error.expires_at) == ("relax", glass.expires_at)
        assert fact(session) == ("relax", glass.expires_at)
    with tappass_session(agent="clerk", respect_breakglass=True) as session:
        answer = way(False)
        assert answer
        assert fact(session) == ("relax", glass.expires_at)
        if way is by_chat or way is by_async_chat:
            assert answer.break_glass.level == "relax"
        if way is by_stream or way is by_async_stream:
            assert {chunk.break_glass.level for chunk in answer} == {"relax"}
    ended = [event.error_type for event in people.plane.events(type="call.ended")]
    assert ended == ["BreakGlassActive", ""]


def fact(session: Session) -> tuple[str, str]:
    assert session.break_glass is not None
    return session.break_glass.level, session.break_glass.expires_at
