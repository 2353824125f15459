"""One request: whether it may be sent, what is sent, what may be seen of the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import mcp.types as types

from tappass.errors import TapPassError, ToolIntegrityViolation
from tappass.ext import Options, Session, ToolDefinition, acall, current_session, printable, tell
from tappass_adapters.mcp.catalogue import SHADOWED, UNLISTED, Catalogue, Listed
from tappass_adapters.mcp.content import shown
from tappass_adapters.mcp.requests import CALL, arguments_of, definition_of

_VERDICTS = {
    UNLISTED: "is on no list of tools of its server",
    SHADOWED: "has a name that another tool here goes by too",
}

Send = Callable[[dict[str, Any]], Awaitable[Any]]


class Permit:
    """One call that was decided, while it is sent: of which tool, with what, as which definition."""

    def __init__(self, gate: Gate, method: str, params: dict[str, Any], digest: str) -> None:
        self._gate = gate
        self._method = method
        self._params = params
        self._digest = digest
        self._sent = False

    async def covers(self, method: str, params: dict[str, Any]) -> bool:
        """Tell whether a request is the one that was decided; a second one only as the same definition.

        Raises:
            ToolIntegrityViolation: the tool has changed since.
        """
        if method != self._method or _asked(method, params) != _asked(method, self._params):
            return False
        if self._sent and method == CALL:
            # Another round of the same call; one without answers in it is sent again since the tool's list has changed.
            round_of_answers = "inputResponses" in params or "requestState" in params
            await self._gate.insist(params["name"], self._digest, now=not round_of_answers)
        self._sent = True
        return True


class Gate:
    """What every request of one connection goes through."""

    def __init__(self, catalogue: Catalogue, session: Session, *, options: Options, audience: str, around: Any) -> None:
        self.catalogue = catalogue
        self._session = session
        self._around: Session | None = around
        self._options = options
        self._audience = audience

    def place(self) -> Session:
        """Return the session that a call belongs to which is made here: one opened inside, or the connection's own."""
        active = current_session()
        if active is None or active is self._around or active.plane is not self._session.plane:
            return self._session
        return active

    async def govern(self, method: str, params: dict[str, Any], send: Callable[[dict[str, Any], Permit], Any]) -> Any:
        """Decide on one request, send it, settle; `params` are as they go out.

        Raises:
            GovernanceDecision: it may not be sent, or its answer may not be seen.
        """
        session = self.place()
        try:
            return await self._governed(session, method, params, send)
        except TapPassError as refusal:
            if method != CALL:
                raise
            return answer(tell(session, refusal))

    async def _governed(
        self, session: Session, method: str, params: dict[str, Any], send: Callable[[dict[str, Any], Permit], Any]
    ) -> Any:
        name, arguments = _asked(method, params)
        listed, doubt = await self.catalogue.look(name) if method == CALL else (None, "")
        definition = _of_request(method, listed, name, self.catalogue.server)

        async def run(given: dict[str, Any]) -> Any:
            if doubt in _VERDICTS:
                # Whatever the plane said: nobody knows which tool this would be.
                raise ToolIntegrityViolation(
                    f"`{printable(name)}` {_VERDICTS[doubt]}; nothing ran",
                    tool_name=name,
                    violation="not_approved",
                    correlation=session.correlation,
                )
            sent = _with_arguments(method, params, given)
            return await send(sent, Permit(self, method, sent, listed.digest if listed is not None else ""))

        return await acall(
            run,
            name,
            arguments,
            session=session,
            definition=definition,
            doubt=doubt,
            show=shown,
            options=self._options,
        )

    async def insist(self, name: str, digest: str, *, now: bool) -> None:
        """See to it that a tool is still what a call of it was decided as.

        Raises:
            ToolIntegrityViolation: it is not.
        """
        listed, doubt = await self.catalogue.look(name, now=now)
        if doubt in _VERDICTS or listed is None or listed.digest != digest:
            raise ToolIntegrityViolation(
                f"`{printable(name)}` has changed while it was called; it was not called again",
                tool_name=name,
                violation="hash_mismatch",
                correlation=self.place().correlation,
            )

    async def stamp(self) -> str:
        """Return the token that places the server's calls beneath the call that runs here; "" if none is wanted."""
        return await self.place().stamp_async(self._audience) if self._audience else ""


def answer(text: str) -> types.CallToolResult:
    """Return what a model is told of a refusal as the answer to its call."""
    return types.CallToolResult.model_validate({"content": [{"type": "text", "text": text}], "isError": True})


def _asked(method: str, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return what policy calls a request, and its arguments by name."""
    if method == CALL:
        return params["name"], params.get("arguments") or {}
    return method, arguments_of(params)


def _with_arguments(method: str, params: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    if method == CALL:
        return params | {"arguments": given} if given or "arguments" in params else params
    return params | given


def _of_request(method: str, listed: Listed | None, name: str, server: str) -> ToolDefinition:
    if listed is not None:
        return listed.definition
    if method == CALL:
        return ToolDefinition(name=name, server=server)
    return definition_of(method, server)
