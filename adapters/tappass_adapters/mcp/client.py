"""guard_mcp_client: one connection to an MCP server, governed for as long as it lasts."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Unpack

from tappass.errors import TapPassConfigError
from tappass.ext import GuardOptions, Options, Session, UnitOfWork, current_session, missing, opening_of

try:
    import mcp
except ImportError as error:
    raise missing("mcp", "guard_mcp_client()") from error

from tappass_adapters.mcp import names
from tappass_adapters.mcp.catalogue import Catalogue
from tappass_adapters.mcp.gate import Gate
from tappass_adapters.mcp.making import Closing, around
from tappass_adapters.mcp.proxies import Guarded, GuardedClient

# mcp 1 has no `Client`.
_Client: type[Any] | None = getattr(mcp, "Client", None)


def guard_mcp_client(
    client: Any = None,
    /,
    *,
    server: str = "",
    max_age_s: float = 60.0,
    vouched: Collection[str] = (),
    shared_names: Collection[str] = (),
    correlate: bool = True,
    audience: str = "",
    **asked: Unpack[GuardOptions],
) -> Any:
    """Govern a connection to an MCP server: its tools, resources and prompts, for as long as it lasts.

        async with guard_mcp_client(Client("https://mcp.example/mcp"), server="billing") as client:
            await client.call_tool("pay", {"amount": 120})

    What is entered is of the client's own type, connected, in a session of its own, beneath the active one if there is
    one. Without `client` it decorates the function that makes one: an async generator, or one that returns a client, or
    a context manager or a coroutine that gives one.

    Args:
        client: an `mcp.Client` or an `mcp.ClientSession`, entered already or not.
        server: what you call this server, in rules (`mcp_server: billing`) and pins. Not what it calls itself.
        max_age_s: how old a list of tools may be when one of them is called, in seconds; 0 reads it before each call.
        vouched: tools whose words a person has looked at: they are listed whatever these hold.
        shared_names: names that may stand for tools of several servers.
        correlate: send the server a token that says where its calls belong.
        audience: how the server knows itself, for that token; `server` by default.
        asked: see `GuardOptions`. Told, a refused tool call is answered by a `CallToolResult` with `is_error`.

    Raises:
        TapPassConfigError: an option is wrong, or what is to be guarded is no client.
    """
    if unknown := sorted(set(asked) - set(GuardOptions.__annotations__)):
        raise TapPassConfigError(f"guard_mcp_client() knows no {', '.join(unknown)}")
    told: dict[str, Any] = dict(asked)
    wanted = Wanted(
        server=server,
        max_age_s=max_age_s,
        vouched=frozenset(vouched),
        shared_names=frozenset(shared_names),
        audience=(audience or server) if correlate else "",
        options=Options(**{option: told.get(option) for option in Options.__struct_fields__}),
        asked=asked,
    )
    if client is None:
        return functools.partial(around, functools.partial(Guard, wanted))
    return Guard(wanted, client)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a guard's caller asked for."""

    server: str
    max_age_s: float
    vouched: Collection[str]
    shared_names: Collection[str]
    audience: str
    options: Options
    # It may hold a key.
    asked: GuardOptions = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.server, str) or not self.server:
            raise TapPassConfigError('guard_mcp_client() needs a name for the server: server="billing"')
        if not 0 <= self.max_age_s < math.inf:
            raise TapPassConfigError(f"max_age_s={self.max_age_s!r} is no age; give seconds, 0 or more")

    def unit(self) -> UnitOfWork:
        """Return the session of one connection, not opened yet."""
        asked = self.asked
        opening = opening_of(
            name=asked.get("name") or self.server,
            kind="mcp",
            agent=asked.get("agent") or "",
            metadata=asked.get("metadata"),
        )
        return UnitOfWork(
            opening, url=asked.get("url"), api_key=asked.get("api_key"), options=self.options, reraise=True
        )


class Guard:
    """A connection that is governed while it is entered; `async with` gives the client that stands in for it."""

    def __init__(self, wanted: Wanted, target: Any) -> None:
        if not _connects(target):
            raise TapPassConfigError(
                f"guard_mcp_client() governs an mcp.Client or an mcp.ClientSession, not a {type(target).__name__}; "
                "of another library's client, guard the ClientSession inside"
            )
        if isinstance(target, Guarded):
            raise TapPassConfigError("this MCP client is guarded already")
        self._wanted = wanted
        self._target = target
        self._stack: AsyncExitStack | None = None
        self._error: BaseException | None = None

    async def __aenter__(self) -> Any:
        return await self._entered(active=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose(kind, error, trace)

    async def aclose(self, *exc: Any) -> None:
        """End the connection, and the session around it."""
        stack, self._stack = self._stack, None
        if stack is None:
            return
        kind, error, trace = exc or (None, None, None)
        self._error = error
        context = error.__context__ if error is not None else None
        try:
            await stack.__aexit__(kind, error, trace)
        except BaseException as raised:
            if raised is not error:
                raise
            error.__context__ = context

    async def aopen(self) -> Any:
        """Connect without making the session the active one; calls of the client belong to it all the same."""
        return await self._entered(active=False)

    async def _entered(self, *, active: bool) -> Any:
        if self._stack is not None:
            raise TapPassConfigError("this guard is entered already; make one for each connection")
        outer, scope, unit = current_session(), names.scope_around(), self._wanted.unit()
        async with AsyncExitStack() as stack:
            if active:
                session = await stack.enter_async_context(unit)
            else:
                session = await unit.aopen()
                stack.push_async_exit(Closing(unit))
            stack.push_async_exit(self._unwrap)
            guarded = await self._connected(stack, session, outer, scope)
            self._stack = stack.pop_all()
        return guarded

    async def _unwrap(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Give the session the error that ended it: task groups on the way wrap what only passes through them."""
        if isinstance(error, BaseExceptionGroup) and self._error is not None and _leaves(error) == [self._error]:
            raise self._error

    async def _connected(self, stack: AsyncExitStack, session: Session, outer: Session | None, scope: str) -> Any:
        client, wanted = self._target, self._wanted
        if not _is_client(client) or not _is_entered(client):
            client = await stack.enter_async_context(client)
        if not _is_client(client):
            raise TapPassConfigError(f"what guard_mcp_client() stands around gave a {type(client).__name__}, no client")
        if isinstance(client, Guarded):
            raise TapPassConfigError("this MCP client is guarded already")
        raw = client if isinstance(client, mcp.ClientSession) else client.session
        catalogue = Catalogue(raw, wanted.server, scope=scope, max_age_s=wanted.max_age_s, shared=wanted.shared_names)
        names.enlist(session, scope)
        stack.callback(names.withdraw, scope, id(catalogue), session)
        gate = Gate(
            catalogue,
            session,
            options=wanted.options,
            audience=wanted.audience,
            around=outer,
        )
        if _is_ready(raw):
            # Now, not at the first call: what this server offers may shadow another one's tools.
            await catalogue.fresh()
        made = Guarded if raw is client else GuardedClient
        return made(client, gate, wanted.vouched)


def _connects(target: Any) -> bool:
    if _is_client(target):
        return True
    # A context manager is taken at its word until it gives something; another library's client is one, too.
    return hasattr(type(target), "__aenter__") and not hasattr(target, "call_tool")


def _is_client(target: Any) -> bool:
    return isinstance(target, mcp.ClientSession) or (_Client is not None and isinstance(target, _Client))


def _is_entered(client: Any) -> bool:
    if isinstance(client, mcp.ClientSession):
        return getattr(client, "_task_group", None) is not None
    return client._session is not None


def _is_ready(session: Any) -> bool:
    """Tell whether a session has shaken hands, so that it may be asked."""
    if hasattr(session, "protocol_version"):
        return session.protocol_version is not None
    return session.get_server_capabilities() is not None


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
