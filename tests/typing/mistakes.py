"""Read by mypy and pyright, never run: a decorated function is called as checked as before, methods too."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_type

from tappass import Agent, govern, tool


@tool
def send(to: str, *, copies: int = 1) -> bool:
    return bool(to) and copies > 0


class Mailbox:
    @classmethod
    @tool
    def open(cls, name: str) -> Mailbox:
        return cls()

    @staticmethod
    @tool
    def size(name: str) -> int:
        return len(name)


def wrong_arguments_are_still_wrong() -> None:
    send(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send("a", copies="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Mailbox.size(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def class_and_static_methods_keep_their_types() -> None:
    assert_type(Mailbox.open("inbox"), Mailbox)
    assert_type(Mailbox.size("inbox"), int)


def a_list_of_tools_keeps_its_type(tools: list[Callable[[str], int]]) -> None:
    assert_type(govern(tools), list[Callable[[str], int]])


def chunks_have_their_ids() -> None:
    for chunk in Agent().stream("hello"):
        assert_type(chunk.session_id, str)
