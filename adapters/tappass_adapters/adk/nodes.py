"""Tools that are nodes of a workflow: older versions of ADK run them past every plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tappass_adapters.adk.plugin import speaking

ToolNode: Any
try:
    from google.adk.workflow import _tool_node

    ToolNode = _tool_node._ToolNode
except ImportError:  # pragma: no cover
    ToolNode = None

WAY = "_run_impl"


def around(original: Callable[..., Any]) -> Any:
    """Return how a node runs its tool: once we stand before that tool."""

    def _run_impl(self: Any, *, ctx: Any, node_input: Any) -> Any:
        if (guard := speaking(ctx)) is not None:
            guard.tools.expect(self.tool, node=True)
        return original(self, ctx=ctx, node_input=node_input)

    return _run_impl
