"""The surface that adapters are written on; an adapter imports nothing else of tappass.

A guard is a `unit` of work around a framework's entrypoint. Inside it, tools are governed in one of two ways: by
`govern_callable`, where the adapter may replace the callable that the framework calls; by `Interception`, where the
framework runs the tool itself and calls a hook before and after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tappass.decorators import govern_callable
from tappass.enforcement.action import Call, project_arguments
from tappass.enforcement.flow import enforce
from tappass.enforcement.paused import AsyncPausedCall, PausedCall
from tappass.enforcement.projection import Encoders
from tappass.extras import missing
from tappass.placing import aplace, place
from tappass.scopes import UnitOfWork, opening_of
from tappass.session.context import carry, current_session
from tappass.session.session import Options, Session
from tappass.toolspec import sha256
from tappass.wire.codec import canonical
from tappass.wire.decisions import Action, ToolDefinition
from tappass.wire.sessions import Opening


def unit(
    name: str,
    kind: str,
    *,
    url: str | None = None,
    api_key: str | None = None,
    agent: str = "",
    metadata: Mapping[str, Any] | None = None,
    options: Options | None = None,
) -> UnitOfWork:
    """Return a guard's unit of work: a session that raises a swallowed refusal again when it ends.

    Args:
        name: what the session is called, as the framework names the run.
        kind: the framework's word for it: `crew`, `graph`, `run`, `request`.
        url: the plane, if not the active session's; `api_key` goes to no other.
        api_key: the key for that url.
        agent: who acts.
        metadata: JSON values kept beside the log.
        options: what the guard's caller asked for.
    """
    opening = opening_of(name=name, kind=kind, agent=agent, metadata=metadata)
    return UnitOfWork(opening, url=url, api_key=api_key, options=options, reraise=True)


class _Anywhere:
    """Insists on no plane: the active session's."""

    url = None
    api_key = None


class Interception:
    """One tool call that a framework runs between two of its hooks.

        call = Interception("get_weather", {"city": "Paris"})
        arguments = call.before()          # raises a GovernanceDecision: do not run the tool
        result = call.after(tool(**arguments))

    Args:
        name: the tool's name, as policy calls it.
        arguments: by name, without what the framework injects.
        definition: the tool as the framework describes it to the model.
        encoders: how to show values that have no JSON projection.
        options: what the guard's caller asked for.
    """

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        definition: ToolDefinition | None = None,
        encoders: Encoders | None = None,
        options: Options | None = None,
    ) -> None:
        self._name = name
        self._arguments = dict(arguments)
        self._definition = definition or ToolDefinition(name=name)
        self._encoders = encoders or {}
        self._options = options or Options()
        self._paused: PausedCall | None = None
        self._apaused: AsyncPausedCall | None = None

    def _call(self, session: Session) -> Call:
        arguments, types = project_arguments(self._name, self._arguments, self._encoders)
        action = Action(
            kind="tool",
            name=self._name,
            arguments=arguments,
            types=types,
            server=self._definition.server,
            definition_digest=sha256(canonical(self._definition)),
        )
        return Call(
            action,
            session,
            _never,
            (),
            self._arguments,
            originals=self._arguments,
            rebind=lambda changed: ((), self._arguments | changed),
            definition=self._definition,
            raise_on_redaction=self._options.raise_on_redaction,
            respect_breakglass=self._options.respect_breakglass,
            on_approval=self._options.on_approval,
            approval_timeout_s=self._options.approval_timeout_s,
        )

    def before(self) -> dict[str, Any]:
        """Decide; return the arguments the tool may be given.

        Raises:
            GovernanceDecision: it may not run.
        """
        session = place(_Anywhere)
        call = self._call(session)
        self._paused = PausedCall(enforce(call), session.plane.sync, call)
        return self._paused.start().kwargs

    def after(self, result: Any = None, error: BaseException | None = None) -> Any:
        """Settle with what the tool returned or raised; return what may be seen of its result."""
        assert self._paused is not None, "before() comes first"
        return self._paused.finish(result, error)

    async def abefore(self) -> dict[str, Any]:
        """Decide; return the arguments the tool may be given. The async twin of `before`."""
        session = await aplace(_Anywhere)
        call = self._call(session)
        self._apaused = AsyncPausedCall(enforce(call), session.plane.aio, call)
        return (await self._apaused.start()).kwargs

    async def aafter(self, result: Any = None, error: BaseException | None = None) -> Any:
        """Settle; return what may be seen of the result. The async twin of `after`."""
        assert self._apaused is not None, "abefore() comes first"
        return await self._apaused.finish(result, error)


def _never(**_arguments: Any) -> None:
    raise AssertionError("the framework runs this tool, not its interception")


__all__ = [
    "Encoders",
    "Interception",
    "Opening",
    "Options",
    "Session",
    "ToolDefinition",
    "UnitOfWork",
    "carry",
    "current_session",
    "govern_callable",
    "missing",
    "unit",
]
