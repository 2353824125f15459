"""Approvals by which a graph pauses: noted in its interrupts, found again in its checkpoint, not lost in between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import var_child_runnable_config

from tappass import ApprovalRequired

if TYPE_CHECKING:
    from tappass_adapters.langchain import AgentGuard

_TOLD = ("approval_url", "resume_token", "expires_at", "reason")


class Pauses:
    """The approvals of one guard for which graphs pause.

    Args:
        guard: the guard.
    """

    def __init__(self, guard: AgentGuard) -> None:
        self._guard = guard
        self._noted: dict[str, dict[str, Any]] = {}
        self._rising: dict[UUID, tuple[ApprovalRequired, bool]] = {}

    def find(self, state: Any) -> str:
        """Note what a checkpoint waits for, each approval for its own call; return the token of one, "" for none."""
        for pending in state.interrupts:
            if isinstance(pending.value, dict) and pending.value.get("tappass") == "approval":
                self._noted[str(pending.value.get("call"))] = pending.value
        return next((str(value["resume_token"]) for value in self._noted.values()), "")

    def go_on(self, call: str) -> tuple[str, int]:
        """Return the token by which a call goes on, and how often it was interrupted for approvals before."""
        if (noted := self._noted.pop(call, None)) is None:
            return "", 0
        told = {name: str(noted.get(name, "")) for name in _TOLD}
        error = ApprovalRequired("waiting for people to agree", correlation=self._guard.session.correlation, **told)
        # What the graph is resumed with answers our interrupts, in their order, and none of the tool's own.
        for _ in range(noted["times"]):
            self.interrupt(error, call, noted["times"])
        return error.resume_token, noted["times"]

    def interrupt(self, error: ApprovalRequired, call: str, times: int) -> None:
        """Pause the graph; returns where it is being resumed."""
        from langgraph.types import interrupt

        self._guard.pause(error)
        if (run := _run_here()) is not None:
            self._rising[run] = (error, False)
        told = {name: getattr(error, name) for name in _TOLD}
        interrupt({"tappass": "approval", **told, "call": call, "times": times})
        self._guard.unpause(error)

    # An interrupt on its way out of what it pauses.

    def rose(self, run: UUID, parent: UUID | None, node: bool) -> None:
        """Follow an interrupt out of a tool or a chain that it ended."""
        if (rising := self._rising.pop(run, None)) is not None and parent is not None:
            self._rising[parent] = (rising[0], node)

    def ended(self, run: UUID) -> None:
        """See whether what ended well has swallowed an interrupt; a graph whose node was interrupted has not.

        Raises:
            ApprovalRequired: it has.
        """
        error, graph = self._rising.pop(run, (None, True))
        if error is not None and not graph and self._guard.waits_for(error):
            self._guard.unpause(error)
            self._guard.session.let_stand(error)
            raise error


def call_here(name: str, arguments: Mapping[str, Any]) -> str:
    """Return what tells one call in one task of a graph from all others, after a resume too; "" outside a graph."""
    config = var_child_runnable_config.get() or {}
    task = str((config.get("metadata") or {}).get("langgraph_checkpoint_ns") or "")
    said = f"{task} {name} {json.dumps(arguments, sort_keys=True, default=repr)}"
    return hashlib.sha256(said.encode()).hexdigest() if task else ""


def graph_in(what: Any) -> Any:
    """Return the graph that is run again and again by what wraps it; anything else as it is."""
    while isinstance(what, RunnableBindingBase) and not getattr(what, "checkpointer", None):
        what = what.bound
    return what


def resumed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Return the graph and the config of a call that resumes from a checkpoint."""
    graphs = map(graph_in, args)
    graph = next((one for one in graphs if getattr(one, "checkpointer", None) and hasattr(one, "get_state")), None)
    given = [*args, *kwargs.values()]
    # Where the call brings none, the graph has its own.
    config: Any = next((arg for arg in given if isinstance(arg, dict) and "configurable" in arg), {"configurable": {}})
    commands = any(type(arg).__name__ == "Command" and arg.resume is not None for arg in given)
    return (graph, config) if graph is not None and commands else (None, None)


def _run_here() -> UUID | None:
    callbacks = (var_child_runnable_config.get() or {}).get("callbacks")
    return getattr(callbacks, "parent_run_id", None)
