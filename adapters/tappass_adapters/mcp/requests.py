"""The requests of the Model Context Protocol that both of its sides govern, and those that both let pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tappass.errors import TapPassConfigError
from tappass.ext import ToolDefinition

CALL, LIST = "tools/call", "tools/list"
# What reaches no tool, resource or prompt: to be there, and what there is; some of it comes before anybody is governed.
PASSES = frozenset(
    {
        "initialize", "server/discover", "ping", "logging/setLevel", "resources/unsubscribe", "subscriptions/listen",
        LIST, "resources/list", "resources/templates/list", "prompts/list",
    }
)  # fmt: skip
# Of the protocol, not of what is asked.
_OWN = ("_meta", "inputResponses", "requestState")


def arguments_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments, by name, of a request that calls no tool."""
    return {key: value for key, value in params.items() if key not in _OWN}


def definition_of(method: str, server: str, package: str = "") -> ToolDefinition:
    """Return what policy is told of a request that calls no tool."""
    said = f"The request `{method}` of the Model Context Protocol."
    return ToolDefinition(name=method, description=said, open_arguments=True, server=server, package=package)


def only(tokens: Sequence[str]) -> str:
    """Return the token of a request's headers, "" if there is none.

    Raises:
        TapPassConfigError: there is more than one.
    """
    if len(tokens) > 1:
        raise TapPassConfigError("more than one correlation token came with this request; nothing ran")
    return tokens[0] if tokens else ""
