"""The official client in governed form: what can be governed is, and the rest of what asks a model is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import wrapt

from tappass.errors import TapPassConfigError
from tappass_adapters.openai.chat import Chat
from tappass_adapters.openai.current import governed_above
from tappass_adapters.openai.loop import Loop
from tappass_adapters.openai.responses import Responses, given_of
from tappass_adapters.openai.steps import adrive, aevents, drive, events

if TYPE_CHECKING:
    from tappass_adapters.openai.guard import OpenAIGuard

# What asks no model and runs no tool.
_PLAIN = frozenset({"files", "models", "moderations", "uploads", "vector_stores", "close", "is_closed"})


def governed_client(guard: OpenAIGuard, client: Any) -> Any:
    """Return a client in governed form; one that is governed by this guard already, as it is."""
    if isinstance(client, GovernedClient):
        return client if client._self_loop.guard is guard else GovernedClient(client.__wrapped__, Loop(guard))
    return GovernedClient(client, Loop(guard))


class Governed(wrapt.ObjectProxy[Any]):
    """A part of the client: what `ways` names leads to the governed form, `plain` passes, all else is refused."""

    where = ""
    plain: frozenset[str] = frozenset()

    def __init__(self, wrapped: Any, loop: Loop) -> None:
        super().__init__(wrapped)
        self._self_loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__wrapped__, name)
        if name in self.plain or name.startswith("_") or not _leads_on(value):
            return value
        raise TapPassConfigError(
            f"`{self.where}{name}` cannot be governed; use a client of your own for what needs no governing"
        )

    def __copy__(self) -> Any:
        raise TapPassConfigError("a governed client is not copied: use its copy() or with_options()")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.__copy__()

    def __reduce__(self) -> Any:
        raise TapPassConfigError("a governed client is not pickled: its guard ends with this process")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()


def _leads_on(value: Any) -> bool:
    """Tell whether an attribute does something, or leads to what does; plain settings do not."""
    home = type(value).__module__
    return callable(value) or (home.startswith("openai.") and home != "openai._types")


class GovernedClient(Governed):
    """An `OpenAI` or `AsyncOpenAI` client, governed.

    Attributes:
        session: the session of its guard.
    """

    where = "client."
    plain = _PLAIN

    @property
    def session(self) -> Any:
        """The session of its guard."""
        return self._self_loop.guard.session

    @property
    def responses(self) -> Any:
        """Responses: `create`, also streamed, `parse` and `stream`."""
        return GovernedResponses(self.__wrapped__.responses, self._self_loop)

    @property
    def chat(self) -> Any:
        """Chat completions: `create`, also streamed, `parse` and `stream`."""
        return GovernedChat(self.__wrapped__.chat, self._self_loop)

    @property
    def beta(self) -> Any:
        """Threads and their runs, for servers that have them."""
        from tappass_adapters.openai.threads import GovernedBeta

        return GovernedBeta(self.__wrapped__.beta, self._self_loop)

    def with_options(self, **options: Any) -> Any:
        """Return a client with other options, governed by the same guard."""
        return type(self)(self.__wrapped__.with_options(**options), self._self_loop)

    def copy(self, **options: Any) -> Any:
        """Return a client with other options, governed by the same guard."""
        return type(self)(self.__wrapped__.copy(**options), self._self_loop)


class GovernedChat(Governed):
    """`client.chat`, governed."""

    where = "client.chat."

    @property
    def completions(self) -> Any:
        """Chat completions."""
        return GovernedCompletions(self.__wrapped__.completions, self._self_loop)


class _Asking(Governed):
    """A resource whose `create` asks a model."""

    protocol: Any = None

    def create(self, **request: Any) -> Any:
        """Ask the model; governed."""
        inner = self.__wrapped__.create
        if governed_above.get():
            return inner(**request)
        request = _kept(request)
        if given_of(request, "stream"):
            return self._stream(request, inner)
        return self._turn(request, inner)

    def parse(self, **request: Any) -> Any:
        """Ask the model for something that is parsed; governed."""
        return self._turn(_kept(request), self.__wrapped__.parse)

    def stream(self, **request: Any) -> Any:
        """Return a manager of a streamed answer; it comes back here to ask."""
        return type(self.__wrapped__).stream(self, **request)

    def _turn(self, request: dict[str, Any], inner: Any) -> Any:
        steps = self._self_loop.turn(self.protocol, request)
        return adrive(steps, inner) if is_async(self.__wrapped__) else drive(steps, inner)

    def _stream(self, request: dict[str, Any], inner: Any) -> Any:
        loop, protocol = self._self_loop, self.protocol
        if is_async(self.__wrapped__):
            return _abegun(loop, protocol, request, inner)
        request = drive(loop.handed_in(protocol, request), inner)
        begun = drive(loop.begin(protocol, request), inner)
        now = [begun[2]]
        return GovernedStream(
            begun[2], loop.guard.stream(events(loop.streamed(protocol, request, begun), inner, now)), now
        )


def _kept(request: dict[str, Any]) -> dict[str, Any]:
    """Return a request whose iterators can be read more than once."""
    return {name: list(value) if isinstance(value, Iterator) else value for name, value in request.items()}


async def _abegun(loop: Loop, protocol: Any, request: dict[str, Any], inner: Any) -> Any:
    request = await adrive(loop.handed_in(protocol, request), inner)
    begun = await adrive(loop.begin(protocol, request), inner)
    now = [begun[2]]
    source = loop.guard.astream(aevents(loop.streamed(protocol, request, begun), inner, now))
    return GovernedAsyncStream(begun[2], source, now)


def is_async(resource: Any) -> bool:
    """Tell whether a client's resource is an async one."""
    return type(resource).__name__.startswith("Async")


class GovernedResponses(_Asking):
    """`client.responses`, governed."""

    where = "client.responses."
    plain = frozenset({"cancel", "delete"})
    protocol = Responses


class GovernedCompletions(_Asking):
    """`client.chat.completions`, governed."""

    where = "client.chat.completions."
    plain = frozenset({"delete"})
    protocol = Chat


class GovernedStream(wrapt.ObjectProxy[Any]):
    """A stream of the client, whose events come by the guard."""

    def __init__(self, wrapped: Any, source: Any, now: list[Any]) -> None:
        super().__init__(wrapped)
        self._self_source, self._self_now = source, now

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self._self_source)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; its call settles as abandoned."""
        self._self_source.close()
        self._self_now[0].close()

    def __getattr__(self, name: str) -> Any:
        if name in ("_iterator", "_decoder", "_iter_events", "__stream__"):
            raise TapPassConfigError(f"`{name}` of a governed stream leads past its guard")
        return getattr(self.__wrapped__, name)


class GovernedAsyncStream(wrapt.ObjectProxy[Any]):
    """An async stream of the client, whose events come by the guard."""

    def __init__(self, wrapped: Any, source: Any, now: list[Any]) -> None:
        super().__init__(wrapped)
        self._self_source, self._self_now = source, now

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._self_source)

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.close()

    async def close(self) -> None:
        """End the stream; its call settles as abandoned."""
        await self._self_source.aclose()
        await self._self_now[0].close()
