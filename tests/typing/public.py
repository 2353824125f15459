"""What a type checker sees through our decorators: exactly what was decorated."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import assert_type

from tappass import (
    Agent,
    ChatResponse,
    PolicyBlockError,
    Session,
    carry,
    current_session,
    governed,
    tappass_session,
    tappass_session_async,
    tool,
)


@tool
def plain(a: int, *, b: str = "") -> float:
    return a + len(b)


@tool(name="other")
async def acoro(a: int) -> str:
    return str(a)


@governed
def stream(n: int) -> Generator[int, None, str]:
    yield n
    return "end"


@governed(name="run")
async def astream(n: int) -> AsyncGenerator[int, None]:
    yield n


class Desk:
    @tool
    def sell(self, item: str) -> int:
        return len(item)


assert_type(plain(1, b="x"), float)
assert_type(stream(1), Generator[int, None, str])
assert_type(astream(1), AsyncGenerator[int, None])
assert_type(Desk().sell("pen"), int)
assert_type(current_session(), Session | None)
assert_type(carry(plain)(1), float)


def use() -> None:
    with tappass_session(name="x") as session:
        assert_type(session, Session)
    try:
        assert_type(Agent().chat("hello"), ChatResponse)
    except PolicyBlockError as error:
        assert_type(error.blocked_by, str)


async def ause() -> None:
    assert_type(await acoro(1), str)
    async with tappass_session_async(name="x") as session:
        assert_type(session, Session)
