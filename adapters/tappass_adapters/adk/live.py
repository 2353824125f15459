"""Live connections: each is decided as one model call, by what it is set up with, and recorded when it ends."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tappass.errors import TapPassConfigError
from tappass.ext import Session
from tappass_adapters.adk import messages
from tappass_adapters.adk.models import CHOOSES, choosing
from tappass_adapters.adk.plugin import speaking

if TYPE_CHECKING:
    from tappass_adapters.adk.guard import AdkGuard


class Live:
    """The live connections of one guard."""

    def __init__(self, guard: AdkGuard) -> None:
        self._guard = guard
        self._known: dict[int, tuple[Any, Session]] = {}
        self._choosing: dict[int, Session] = {}

    def expect(self, agent: Any, invocation: Any) -> None:
        """Stand before an agent's live model, where this run has one, until the unit ends."""
        by_function = getattr(invocation.run_config, "support_cfc", False)
        if not hasattr(agent, "canonical_live_model") or not (by_function or invocation.live_request_queue is not None):
            return
        model = agent.canonical_live_model
        owner = model if agent.canonical_live_model is model else type(model)
        self.stand(owner)
        if hasattr(owner, CHOOSES):
            self._guard.arm(owner, CHOOSES, choosing)
        self._known[id(owner)] = owner, self._guard.agents.of(invocation)

    def stand(self, owner: Any) -> None:
        """Stand before a live model, or a class of these, until the unit ends."""
        if id(owner) not in self._known:
            self._known[id(owner)] = owner, self._guard.session
            self._guard.arm(owner, "connect", lambda original: _around(owner, original))

    def check(self) -> None:
        """End a live run in which a refusal stands: ADK swallows one of a streaming tool, and asks no model anew.

        Raises:
            TapPassError: what stands.
        """
        if self._known and (stands := self._guard.session.standing) is not None:
            raise copy.copy(stands)

    @asynccontextmanager
    async def connected(self, owner: Any, model: Any, original: Any, request: Any) -> AsyncIterator[Any]:
        """Make one live connection.

        Raises:
            TapPassError: it was refused; there is nobody to tell.
        """
        _, session = self._known.get(id(owner), (None, self._guard.session))
        session = self._choosing.get(id(request), session)
        if hasattr(model, CHOOSES):
            # Each model that it tries is a connection of its own, by that model's name.
            self._choosing[id(request)] = session
            try:
                async with original(request) as connection:
                    yield connection
            finally:
                del self._choosing[id(request)]
            return
        told = messages.shown(request)
        call = messages.call(model, request, told, session)
        request = messages.sent(request, told, await call.abefore())
        try:
            if call.must_be_inspected:
                raise TapPassConfigError(
                    f"`{call.name}` was not connected to: policy inspects what it says, which nobody can as it speaks"
                )
            async with original(request) as connection:
                yield connection
        except BaseException as error:
            await call.aafter(error=error)
            raise
        await call.aafter()


def _around(owner: Any, original: Any) -> Any:
    @asynccontextmanager
    async def connect(*given: Any) -> AsyncIterator[Any]:
        model, request = given if isinstance(owner, type) else (owner, *given)
        method = original.__get__(model) if isinstance(owner, type) else original
        guard = speaking()
        made = method(request) if guard is None else guard.live.connected(owner, model, method, request)
        async with made as connection:
            yield connection

    return connect
