"""One request on a server: whose session it belongs in, whether it runs, what of its answer goes out."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tappass.errors import ApprovalRequired, TapPassConfigError, TapPassError
from tappass.ext import (
    CORRELATION,
    Joining,
    Opening,
    Options,
    Session,
    ToolDefinition,
    acall,
    answer_to,
    canonical,
    sha256,
)
from tappass_adapters.mcp.content import shown
from tappass_adapters.mcp.fitting import fitted
from tappass_adapters.mcp.requests import CALL, arguments_of, definition_of

RESUME = "tappass-resume"
GOVERNED = frozenset({CALL, "resources/read", "resources/subscribe", "prompts/get", "completion/complete"})
_MOST_HELD = 4096


class Arrival(Joining):
    """The session of one request: beneath the one that its token names, else one of its own."""

    def __init__(self, token: str, wanted: Wanted, name: str) -> None:
        super().__init__(
            {CORRELATION: token} if token else {},
            Opening(name=name, kind="request", agent=wanted.agent),
            audience=wanted.audience,
            required=False,
            url=wanted.url,
            api_key=wanted.api_key,
            options=wanted.options,
            reraise=True,
        )

    def _parent(self) -> Session | None:
        # The server's own process may have a session open; a request of somebody else's does not belong in it.
        return None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a server's owner asked for."""

    server: str
    audience: str
    url: str | None
    api_key: str | None = field(repr=False)
    agent: str
    refusals: str
    options: Options


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it came in.

    Attributes:
        method: `tools/call`, …
        params: as they came, without `_meta`.
        meta: its metadata.
        header: the token in the HTTP header, "" if there is none.
        caller: what tells one caller from another, "" where nothing does.
        tool: the tool as it is listed, None if it is not, or no tool is called.
    """

    method: str
    params: Mapping[str, Any]
    meta: Mapping[str, Any]
    header: str = ""
    caller: str = ""
    tool: Any = None

    @property
    def token(self) -> str:
        """The caller's token: of the request itself first, which a proxy does not add.

        Raises:
            TapPassConfigError: what stands in its place is none.
        """
        told = self.meta.get(CORRELATION, self.header)
        if not isinstance(told, str) or (not told and CORRELATION in self.meta):
            raise TapPassConfigError("the correlation token of this request is no text; nothing ran")
        return told

    @property
    def named(self) -> tuple[str, dict[str, Any]]:
        """What policy calls the request, and its arguments by name."""
        if self.method != CALL:
            return self.method, arguments_of(self.params)
        name, arguments = self.params.get("name"), self.params.get("arguments") or {}
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            raise TapPassConfigError("a tool call without a name, or whose arguments are no object; nothing ran")
        return name, dict(arguments)


class Ruling:
    """Governs the requests of one server."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        # Approvals that calls wait for, by caller and call: whoever calls again goes on from there.
        self._held: OrderedDict[str, str] = OrderedDict()

    async def govern(self, asked: Asked, run: Callable[[dict[str, Any]], Awaitable[Any]]) -> Any:
        """Decide on a request, run it with what it may be given, settle; return what may be seen of its answer.

        Raises:
            TapPassError: it did not run, or its answer may not be seen.
        """
        name, arguments = asked.named
        definition, doubt = self._definition(asked, name)
        own: set[str] = set()
        if asked.tool is not None:
            arguments, own = fitted(name, definition.parameters, arguments)

        async def sent(given: dict[str, Any]) -> Any:
            # One that was redacted is sent: the tool refuses it, if anything.
            return await run({key: value for key, value in given.items() if key not in own or value != arguments[key]})

        token, wanted = asked.token, self.wanted
        async with Arrival(token, wanted, name) as session:
            caller = session.session_id if token else asked.caller
            key = sha256(canonical((caller, asked.method, name, arguments))) if caller else ""
            session.resume_token = _text(asked.meta.get(RESUME)) or self._held.pop(key, "")
            try:
                return await _outright(
                    session,
                    acall(sent, name, arguments, session=session, definition=definition, doubt=doubt, show=shown),
                )
            except ApprovalRequired as held:
                self._keep(key, held.resume_token)
                raise

    def _keep(self, key: str, resume_token: str) -> None:
        if key:
            self._held[key] = resume_token
            while len(self._held) > _MOST_HELD:
                self._held.popitem(last=False)

    def _definition(self, asked: Asked, name: str) -> tuple[ToolDefinition, str]:
        """Return the definition of what is asked for, and the doubt about it."""
        server = self.wanted.server
        own: dict[str, Any] = {"server": server, "package": server}
        if asked.method != CALL:
            return definition_of(name, **own), ""
        if asked.tool is None:
            return ToolDefinition(name=name, server=server), "unlisted"
        listed = asked.tool
        schema = listed.get("inputSchema") or {}
        return (
            ToolDefinition(
                name=name,
                description=listed.get("description") or "",
                parameters=schema,
                arguments=tuple(map(str, schema.get("properties") or ())),
                open_arguments=schema.get("additionalProperties") is not False,
                **own,
            ),
            "",
        )


async def _outright(session: Session, answering: Awaitable[Any]) -> Any:
    """Return the answer; raise what was refused inside the tool, whatever the server's library made of it."""
    try:
        answer = await answering
    except TapPassError:
        raise
    except Exception:
        # A copy: what is made of the one that stands may have it for its cause.
        if (stands := session.standing) is not None:
            raise copy.copy(stands) from None
        raise
    if (stands := session.standing) is not None:
        raise copy.copy(stands)
    return answer


def said(error: TapPassError) -> str:
    """Return what a model may read of a refusal, the approval's link included; no trace, no payload."""
    if isinstance(error, ApprovalRequired):
        return (
            f"Not done yet: {error.reason}. People decide at {error.approval_url} until {error.expires_at}; "
            "once they have agreed, call again with the same arguments."
        )
    reason = getattr(error, "reason", "") or str(error)
    return f"Not done: {reason}."


def beside(error: TapPassError) -> dict[str, Any]:
    """Return the metadata of a refusal: what a program goes on with, as problem details (RFC 9457)."""
    answer = answer_to(error)
    told = json.loads(answer.body) if answer is not None else {"detail": str(error)}
    resume = {RESUME: error.resume_token} if isinstance(error, ApprovalRequired) else {}
    return {"tappass": told, **resume}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
