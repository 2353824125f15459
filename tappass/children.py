"""Sessions beneath a guard's: delegated agents and sub-graphs, which share the guard's refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tappass.enforcement.latch import Latch
from tappass.scopes import Unit, opening_of
from tappass.session.session import Session


class Child(Unit):
    """The session of a delegated agent or a sub-graph, beneath a guard's; refusals in it are the guard's to bring back.

    Args:
        parent: the session it lies beneath.
        name: what it is called, as the framework names it.
        kind: the framework's word for it: `agent`, `graph`.
        agent: who acts; the parent's agent by default.
        metadata: JSON values kept beside the log.
    """

    def __init__(
        self,
        parent: Session,
        name: str,
        kind: str,
        *,
        agent: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(opening_of(name=name, kind=kind, agent=agent, metadata=metadata))
        self._beneath = parent

    def _plane(self) -> Any:
        return self._beneath.plane

    def _parent(self) -> Session:
        return self._beneath

    def _latch(self) -> Latch:
        return self._beneath.latch if self._beneath.latch is not None else Latch(brings_back=False)
