"""Asking a policy about a call that nobody makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tappass.engine.policy.document import MEASURES, SCOPES
from tappass.engine.policy.facts import LLM, Facts
from tappass.errors import TapPassConfigError
from tappass.wire.ids import SYSTEM_CLOCK

_EMPTY_TURN: dict[str, Any] = {"prompt": "", "messages": [], "tools": [], "metadata": {}, "parameters": {}}
_UNSPENT: dict[str, Any] = {
    f"{scope}.{measure}": 0.0 if measure == "usd" else 0 for scope in SCOPES for measure in MEASURES
}


def call_facts(
    kind: str, name: str, arguments: dict[str, Any], *, now_ns: int | None = None, agent_tier: str = "standard"
) -> Facts:
    """Return the facts of a call by the default agent, in a session without a name, with nothing spent yet.

    A model's arguments that are not given are those of an empty turn.
    """
    given = _EMPTY_TURN | {"model": name} | arguments if kind == LLM else arguments
    return Facts(
        kind=kind,
        name=name,
        arguments=given,
        agent_name="default",
        agent_tier=agent_tier,
        session_mode="enforce",
        budget=_UNSPENT | {"call.tool_calls": int(kind != LLM)},
        now_ns=SYSTEM_CLOCK.time_ns() if now_ns is None else now_ns,
    )


def arguments_of(words: Iterable[str]) -> dict[str, Any]:
    """Return the arguments that words such as `to=a@b.c` and `amount=1200` give: JSON where it is JSON, else text.

    Raises:
        TapPassConfigError: a word has no `=`, or a name is given twice.
    """
    arguments: dict[str, Any] = {}
    for number, word in enumerate(words, 1):
        name, equals, written = word.partition("=")
        if not equals or not name:
            raise TapPassConfigError(f"argument {number} has no name; write name=value, as in `to=a@b.c amount=1200`")
        if name in arguments:
            raise TapPassConfigError(f"the argument `{name}` is given twice")
        arguments[name] = _value(written)
    return arguments


def _value(written: str) -> Any:
    try:
        return msgspec.json.decode(written)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return written
