"""The agent's side: a message's token is verified before anything is touched, and its work runs beneath the session."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from a2a.server.agent_execution import AgentExecutor, RequestContextBuilder, SimpleRequestContextBuilder
from a2a.server.routes.common import DefaultServerCallContextBuilder, ServerCallContextBuilder

from tappass.errors import ApprovalRequired, TapPassError
from tappass.ext import CORRELATION, Joining, Options, opening_of, token_in
from tappass_adapters.a2a.refusing import protocol_error, wait_for_people

_HEADERS, _UNIT = "tappass.headers", "tappass.unit"


class CorrelationContextBuilder(ServerCallContextBuilder):
    """Keep a request's correlation header as it came: `create_jsonrpc_routes(handler, context_builder=...)`.

    Args:
        inner: the builder that makes the rest; the SDK's own by default.
    """

    def __init__(self, inner: Any = None) -> None:
        self._inner = inner or DefaultServerCallContextBuilder()

    def build(self, request: Any) -> Any:
        """Build the context of one call."""
        context = self._inner.build(request)
        # Of a header that came twice the SDK's own keeps one.
        context.state[_HEADERS] = [pair for pair in request.headers.raw if pair[0].lower() == CORRELATION.encode()]
        return context


class JoiningExecutor(AgentExecutor):
    """Run an agent's work beneath the session of whoever sent the message, until its task or stream ends.

        executor = JoiningExecutor(MyExecutor(), card)
        handler = DefaultRequestHandler(executor, task_store, card, request_context_builder=executor.contexts)

    The token is looked for in the header, then in the request's metadata, then in the message's. With `contexts` it is
    verified before a task is made or touched; without, when the work begins, so that a refusal fails the task. A call
    that waits for people puts the task into the state `input-required`; sent again in the same session, it runs.

    Args:
        executor: the agent's own.
        card: its `AgentCard`.
        audience: whom tokens must be made for; by default the name on the card, without one that of the agent that
            acts here.
        required: refuse messages that bring no token. Otherwise their work has a session of its own.
        name: what sessions of their own are called.
        agent: who acts in them.
        metadata: JSON values kept beside the log, of those sessions too.
        url: the plane, by default as in `tappass_session`.
        api_key: the key for that url, and for no other.
        contexts: the request context builder that `contexts` stands around; the SDK's own by default.
        raise_on_redaction: as in `tappass_session`.
        respect_breakglass: as in `tappass_session`.
        on_approval: as in `tappass_session`.
        approval_timeout_s: as in `tappass_session`.
    """

    def __init__(
        self,
        executor: Any,
        card: Any = None,
        *,
        audience: str = "",
        required: bool = False,
        name: str = "",
        agent: str = "",
        metadata: Mapping[str, Any] | None = None,
        url: str | None = None,
        api_key: str | None = None,
        contexts: Any = None,
        raise_on_redaction: bool | None = None,
        respect_breakglass: bool | None = None,
        on_approval: str | None = None,
        approval_timeout_s: float | None = None,
    ) -> None:
        audience = audience or getattr(card, "name", "") or agent
        self._executor = executor
        self._required = required
        self._opening = opening_of(
            name=name or audience or type(executor).__name__, kind="task", agent=agent, metadata=metadata
        )
        options = Options(
            raise_on_redaction=raise_on_redaction,
            respect_breakglass=respect_breakglass,
            on_approval=on_approval,
            approval_timeout_s=approval_timeout_s,
        )
        self._how: dict[str, Any] = {
            "audience": audience,
            "url": url,
            "api_key": api_key,
            "options": options,
        }
        self._running: dict[str, Joining] = {}
        self.contexts = _Contexts(self, contexts or SimpleRequestContextBuilder())

    def unit(self, call_context: Any, request: Any, *, required: bool | None = None) -> Joining:
        """Return the unit of work of one request.

        Raises:
            CorrelationRefused: what stands in a token's place is none.
        """
        state = call_context.state
        carrier: Any = state.get(_HEADERS) or state.get("headers") or {}
        if token_in(carrier) is None:
            carrier = SimpleNamespace(
                metadata=getattr(request, "metadata", None) or {}, message=getattr(request, "message", None)
            )
        required = self._required if required is None else required
        return Joining(carrier, self._opening, required=required, **self._how)

    async def execute(self, context: Any, event_queue: Any) -> None:
        """Run the agent's work in its session."""
        events = _Noting(event_queue, begun=context.current_task is not None)
        try:
            unit = context.call_context.state.pop(_UNIT, None) or self.unit(context.call_context, context)
            async with unit:
                self._running[context.task_id] = unit
                try:
                    await self._executor.execute(context, events)
                finally:
                    self._running.pop(context.task_id, None)
        except ApprovalRequired as held:
            if events.answered:
                raise protocol_error(held) from held
            await wait_for_people(held, context, event_queue, begun=events.begun)
        except TapPassError as error:
            raise protocol_error(error) or error from error

    async def cancel(self, context: Any, event_queue: Any) -> None:
        """Have the agent cancel its work, in the session of that work, or of whoever asks for it."""
        try:
            unit = self.unit(context.call_context, context, required=False)
            running = self._running.get(context.task_id)
            if running is not None and unit.brought() in (None, running.brought()):
                # No plane is asked: below 1.2 the SDK ends a task's events meanwhile, and the agent's word is lost.
                with running.active():
                    await self._executor.cancel(context, event_queue)
                return
            async with unit:
                await self._executor.cancel(context, event_queue)
        except TapPassError as error:
            raise protocol_error(error) or error from error


class _Contexts(RequestContextBuilder):
    """Verifies a message's token before the task that it is for is made or touched."""

    def __init__(self, executor: JoiningExecutor, inner: Any) -> None:
        self._executor, self._inner = executor, inner

    async def build(self, context: Any, params: Any = None, **told: Any) -> Any:
        """Build the context of one request."""
        try:
            unit = self._executor.unit(context, params)
            await unit.arrive()
        except TapPassError as error:
            raise protocol_error(error) or error from error
        context.state[_UNIT] = unit
        return await self._inner.build(context=context, params=params, **told)


class _Noting:
    """The queue of one execution, and what has gone through it."""

    def __init__(self, queue: Any, *, begun: bool) -> None:
        self._queue = queue
        self.begun = begun
        self.answered = False

    async def enqueue_event(self, event: Any) -> Any:
        """Pass one event on."""
        if type(event).__name__ == "Message":
            self.answered = True
        else:
            self.begun = True
        return await self._queue.enqueue_event(event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)
