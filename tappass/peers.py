"""Between processes: `with_correlation` sends the session along, `join_correlation` enters it on the other side."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, MutableSequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from tappass.around import around
from tappass.carriers import stamped, token_in
from tappass.errors import TapPassConfigError
from tappass.placing import ANYWHERE, aplace, place
from tappass.scopes import UnitOfWork, opening_of
from tappass.session.registry import registry
from tappass.session.session import Options
from tappass.verify import CorrelationRefused
from tappass.wire.sessions import Opening

if TYPE_CHECKING:
    from tappass.enforcement.port import Plane
    from tappass.wire.sessions import SessionRecord

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@overload
def with_correlation(carrier: Mapping[str, str] | None = None, *, audience: str) -> dict[str, str]: ...
@overload
def with_correlation(carrier: MutableSequence[T], *, audience: str) -> list[T]: ...
@overload
def with_correlation(carrier: T, *, audience: str) -> T: ...
def with_correlation(carrier: Any = None, *, audience: str) -> Any:
    """Return what to send to a receiver so that its calls belong to the session that is active here.

    The original is not changed. Where OpenTelemetry traces, headers and environments get its `traceparent` too.

    Args:
        carrier: headers (a mapping, or pairs of name and value as ASGI has them), a dict that goes along in a queue,
            `os.environ`, or a message with `metadata`, such as those of the Agent2Agent protocol; nothing: new headers.
        audience: the receiver, as it calls itself in `join_correlation`: by default, by the name of its agent.

    Raises:
        TapPassConfigError: the session is closed, or nothing of this kind carries a token.
        TapPassConnectionError: the plane cannot be reached.
    """
    return stamped(carrier, place(ANYWHERE).stamp(audience))


@overload
async def with_correlation_async(carrier: Mapping[str, str] | None = None, *, audience: str) -> dict[str, str]: ...
@overload
async def with_correlation_async(carrier: MutableSequence[T], *, audience: str) -> list[T]: ...
@overload
async def with_correlation_async(carrier: T, *, audience: str) -> T: ...
async def with_correlation_async(carrier: Any = None, *, audience: str) -> Any:
    """Return what to send to a receiver. The async twin of `with_correlation`."""
    session = await aplace(ANYWHERE)
    return stamped(carrier, await session.stamp_async(audience))


class Joining(UnitOfWork):
    """A session beneath the one that a token names; where no token came and none is required, one of its own.

    What is joined is shared by all that the caller's session sends here, so it is left as it is, never closed.
    """

    def __init__(
        self,
        carrier: Any,
        opening: Opening,
        *,
        audience: str = "",
        required: bool = True,
        url: str | None = None,
        api_key: str | None = None,
        options: Options | None = None,
        reraise: bool = False,
    ) -> None:
        super().__init__(opening, url=url, api_key=api_key, options=options, reraise=reraise)
        self._carrier = carrier
        self._audience = audience
        self._required = required
        self._joined = False
        self._signature: inspect.Signature | None = None
        self._record: SessionRecord | None = None

    def brought(self) -> str | None:
        """Return the token that came along, whether or not it holds.

        Raises:
            CorrelationRefused: what stands in its place is none.
        """
        return token_in(self._carrier)

    def _token(self) -> str | None:
        if isinstance(self._carrier, str) and self._signature is None:
            raise TapPassConfigError(
                f"join_correlation({self._carrier!r}) names an argument of a function that it decorates; "
                "in a `with`, pass what brought the token"
            )
        token = token_in(self._carrier)
        if token is None and self._required:
            raise CorrelationRefused("missing", "there is none, and this receiver asks for one")
        self._joined = token is not None
        return token

    async def arrive(self) -> None:
        """Verify now what is entered later: a token that holds when it comes may have expired when its turn comes.

        Raises:
            CorrelationRefused: it does not hold, or there is none and this receiver asks for one.
            TapPassConnectionError: the plane cannot be reached.
        """
        token = self._token()
        if token is not None:
            self._record = await self._ajoin(self._plane(), token)

    def _begin(self, plane: Plane, opening: Opening) -> SessionRecord:
        token = self._token()
        if token is None:
            return super()._begin(plane, opening)
        return self._record or plane.sync.join(token, self._audience or registry.implicit(plane).agent)

    async def _abegin(self, plane: Plane, opening: Opening) -> SessionRecord:
        token = self._token()
        if token is None:
            return await super()._abegin(plane, opening)
        return self._record or await self._ajoin(plane, token)

    async def _ajoin(self, plane: Plane, token: str) -> SessionRecord:
        if self._audience:
            return await plane.aio.join(token, self._audience)
        import anyio.to_thread

        own = await anyio.to_thread.run_sync(registry.implicit, plane)
        return await plane.aio.join(token, own.agent)

    def close(self, error: BaseException | None = None) -> None:
        """Leave the session; close it only where it was not joined."""
        if not self._left():
            super().close(error)

    async def aclose(self, error: BaseException | None = None) -> None:
        """Leave the session; close it only where it was not joined."""
        if not self._left():
            await super().aclose(error)

    def _left(self) -> bool:
        if self._joined and self._session is not None:
            registry.discard(self._session)
        return self._joined

    def _again(self) -> Joining:
        asked: dict[str, Any] = {"audience": self._audience, "required": self._required, "options": self._options}
        asked["reraise"] = self._reraise
        return Joining(self._carrier, self._opening, url=self._url, api_key=self._api_key, **asked)

    def _called(self, signature: inspect.Signature) -> Joining:
        unit = self._again()
        unit._signature = signature
        return unit

    def foresee(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take what brought the token from a call's arguments, where it was named."""
        if self._signature is not None:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            self._carrier = bound.arguments[self._carrier]

    def __call__(self, function: F, /) -> F:
        """Return the function with the caller's session joined around each of its calls, of the same kind.

        Raises:
            TapPassConfigError: it has no argument of the name that was given.
        """
        if not isinstance(self._carrier, str):
            return super().__call__(function)
        # As it is called in the end: with what a method is bound to.
        callee = getattr(function, "__func__", function)
        signature = inspect.signature(callee if inspect.isroutine(callee) else type(callee).__call__)
        if self._carrier not in signature.parameters:
            raise TapPassConfigError(f"join_correlation({self._carrier!r}): the function has no argument of that name")
        return around(function, functools.partial(self._called, signature))  # type: ignore[no-any-return]


def join_correlation(
    carrier: Any,
    *,
    audience: str = "",
    required: bool = True,
    name: str = "",
    agent: str = "",
    metadata: Mapping[str, Any] | None = None,
    url: str | None = None,
    api_key: str | None = None,
    raise_on_redaction: bool | None = None,
    respect_breakglass: bool | None = None,
    on_approval: str | None = None,
    approval_timeout_s: float | None = None,
) -> UnitOfWork:
    """Enter the session of whoever sent something here: calls inside belong beneath it.

    The plane verifies the token, and opens a session of the receiver's own beneath the caller's. Whatever was active
    before is active again afterwards, and neither session is closed. Use it as `with`, as `async with`, or as a
    decorator.

    Args:
        carrier: what brought the token, see `with_correlation`. Where it decorates a function, also the name of the
            argument that does: `@join_correlation("headers")`.
        audience: whom the token must be made for; by default the name of the agent that acts here.
        required: refuse what brings no token. Otherwise the calls belong to a session of their own, which is closed.
        name: what that session of their own is called.
        agent: who acts in it.
        metadata: JSON values kept beside the log, of that session too.
        url: the plane, as in `tappass_session`.
        api_key: the key for that url, and for no other.
        raise_on_redaction: as in `tappass_session`.
        respect_breakglass: as in `tappass_session`.
        on_approval: as in `tappass_session`.
        approval_timeout_s: as in `tappass_session`.

    Raises:
        CorrelationRefused: the token is missing, expired, foreign, tampered with or replayed; `problem` says which.
        TapPassConnectionError: the plane cannot be reached.
    """
    options = Options(
        raise_on_redaction=raise_on_redaction,
        respect_breakglass=respect_breakglass,
        on_approval=on_approval,
        approval_timeout_s=approval_timeout_s,
    )
    opening = opening_of(name=name or audience, agent=agent, metadata=metadata)
    return Joining(
        carrier, opening, audience=audience or agent, required=required, url=url, api_key=api_key, options=options
    )
