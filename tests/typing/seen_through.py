"""Read by mypy and pyright, never run: decorators leave every type as it was, and chat answers have theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import assert_type

from tappass import Agent, AsyncAgent, ChatResponse, Session, current_session, govern, governed, tappass_session, tool


@tool
def send(to: str, *, copies: int = 1) -> bool:
    return bool(to) and copies > 0


@tool(name="send_later")
async def send_later(to: str) -> int:
    return len(to)


@governed
def lines(count: int) -> Iterator[str]:
    yield from map(str, range(count))


@governed(name="invoice-run")
async def alines(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes(number)


class Mailbox:
    @tool
    def read(self, folder: str) -> list[str]:
        return [folder]

    @classmethod
    @tool
    def open(cls, name: str) -> Mailbox:
        return cls()

    @staticmethod
    @tool
    def size(name: str) -> int:
        return len(name)


def functions_and_methods() -> None:
    assert_type(send("a@b.c", copies=2), bool)
    assert_type(lines(3), Iterator[str])
    assert_type(alines(3), AsyncIterator[bytes])
    assert_type(Mailbox().read("inbox"), list[str])
    assert_type(Mailbox.open("inbox"), Mailbox)
    assert_type(Mailbox.size("inbox"), int)


async def coroutine_functions() -> None:
    assert_type(await send_later("a@b.c"), int)


def wrong_arguments_are_still_wrong() -> None:
    send(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send("a", copies="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def lists_of_tools(tools: list[Callable[[str], int]]) -> None:
    assert_type(govern(tools), list[Callable[[str], int]])


def sessions() -> None:
    with tappass_session(name="nightly") as session:
        assert_type(session, Session)
        assert_type(session.session_id, str)
    assert_type(current_session(), Session | None)


async def chats() -> None:
    answer = Agent().chat("hello")
    assert_type(answer, ChatResponse)
    assert_type(answer.content, str)
    for chunk in Agent().stream("hello"):
        assert_type(chunk.session_id, str)
    async with AsyncAgent() as agent:
        assert_type(await agent.chat("hello"), ChatResponse)
