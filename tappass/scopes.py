"""Units of work: one object that is a `with`, an `async with` and a decorator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from tappass.around import around, once, title
from tappass.enforcement.latch import Latch
from tappass.enforcement.projection import Unprojectable, project
from tappass.enforcement.verdicts import printable
from tappass.errors import ApprovalRequired, TapPassConfigError, TapPassError
from tappass.plane.connect import connect
from tappass.session.context import Entered, current_session
from tappass.session.registry import registry
from tappass.session.session import COMPLETED, FAILED, SUSPENDED, Options, Session
from tappass.wire.sessions import Opening

if TYPE_CHECKING:
    from tappass.enforcement.port import Plane
    from tappass.wire.sessions import SessionRecord

F = TypeVar("F", bound=Callable[..., Any])


class Unit:
    """One unit of work; opened anew for each call where it decorates, used once where it is entered."""

    def __init__(
        self,
        opening: Opening,
        *,
        url: str | None = None,
        api_key: str | None = None,
        options: Options | None = None,
        reraise: bool = False,
    ) -> None:
        self._opening = opening
        self._url = url
        self._api_key = api_key
        self._options = options or Options()
        self._reraise = reraise
        self._session: Session | None = None
        self._around: Session | None = None
        self._active: Any = None

    # Opening and closing, in parts that the sync and the async side share.

    def _plane(self) -> Plane:
        active = current_session()
        if active is not None and self._url is None and self._api_key is None:
            return active.plane
        return connect(self._url, self._api_key)

    def _asked(self, plane: Plane) -> tuple[Opening, Options]:
        """Return the opening with its parent, and the options with what the parent leaves to inherit."""
        if self._session is not None:
            raise TapPassConfigError("a session is entered once; call tappass_session() again for another")
        parent = self._around = self._parent()
        if parent is None:
            return self._opening, self._options
        options = self._options.over(parent.options)
        if parent.plane is not plane:
            return self._opening, options
        inherited = {"parent": parent.session_id, "agent": self._opening.agent or parent.agent}
        fields = {name: getattr(self._opening, name) for name in self._opening.__struct_fields__}
        return Opening(**(fields | inherited)), options

    def _parent(self) -> Session | None:
        return current_session()

    def _latch(self) -> Latch:
        return Latch(brings_back=self._reraise)

    def _opened(self, record: Any, plane: Plane, options: Options) -> Session:
        self._session = Session(record, plane, options, latch=self._latch())
        if (parent := self._around) is not None and parent.plane is plane:
            # What is resumed around it is resumed in it.
            self._session.resume_token = parent.resume_token
        registry.add(self._session)
        return self._session

    def _closing(self, error: BaseException | None) -> tuple[str, BaseException | None]:
        """Return how the session ends, and the refusal that a framework swallowed where a guard brings it back."""
        session = self._session
        assert session is not None
        registry.discard(session)
        swallowed = session.standing if self._reraise and error is None else None
        cause = error or swallowed
        if self._reraise and isinstance(error, GeneratorExit):
            # Whoever left a stream is raised nothing, but a refusal that its framework swallowed is on record.
            cause = session.standing or error
        if self._reraise and isinstance(cause, TapPassError) and self._around is not None:
            # The framework around may swallow it in its turn.
            self._around.let_stand(cause)
        if cause is None or isinstance(cause, GeneratorExit):
            session.status = COMPLETED
        else:
            session.status = SUSPENDED if isinstance(cause, ApprovalRequired) else FAILED
        return session.status, swallowed

    @property
    def session(self) -> Session:
        """The unit's session.

        Raises:
            TapPassConfigError: it was not opened.
        """
        if self._session is None:
            raise TapPassConfigError("there is no session before it is entered")
        return self._session

    def active(self) -> AbstractContextManager[Any]:
        """Return a context in which the session is the active one; what was is restored after it."""
        return Entered(self._session)

    def foresee(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at what will be called, before the session is opened."""

    async def aforesee(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at what will be called; where only async code can look, the async twin of `foresee`."""
        self.foresee(args, kwargs)

    # Sync.

    def _begin(self, plane: Plane, opening: Opening) -> SessionRecord:
        return plane.sync.open(opening)

    def open(self) -> Session:
        """Open the session without making it the active one."""
        plane = self._plane()
        opening, options = self._asked(plane)
        return self._opened(self._begin(plane, opening), plane, options)

    def close(self, error: BaseException | None = None) -> None:
        """Close the session; never replaces an error in flight."""
        session = self._session
        if session is None:
            return
        status, swallowed = self._closing(error)
        with contextlib.suppress(TapPassError) if error is not None else contextlib.nullcontext():
            session.plane.sync.close(session.session_id, status)
        if swallowed is not None:
            raise swallowed

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call what the unit decorates, inside it."""
        return function(*args, **kwargs)

    def deliver(self, result: Any) -> Any:
        """Return what the caller gets of a result that may go on inside the unit."""
        return result

    def __enter__(self) -> Any:
        session = self.open()
        self._active = self.active()
        self._active.__enter__()
        return session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active.__exit__(kind, error, trace)
        self.close(error)

    # Async.

    async def _abegin(self, plane: Plane, opening: Opening) -> SessionRecord:
        return await plane.aio.open(opening)

    async def aopen(self) -> Session:
        """Open the session without making it the active one."""
        plane = self._plane()
        opening, options = self._asked(plane)
        return self._opened(await self._abegin(plane, opening), plane, options)

    async def aclose(self, error: BaseException | None = None) -> None:
        """Close the session; never replaces an error in flight."""
        session = self._session
        if session is None:
            return
        status, swallowed = self._closing(error)
        with contextlib.suppress(TapPassError) if error is not None else contextlib.nullcontext():
            await session.plane.aio.close(session.session_id, status)
        if swallowed is not None:
            raise swallowed

    async def __aenter__(self) -> Any:
        session = await self.aopen()
        self._active = self.active()
        self._active.__enter__()
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active.__exit__(kind, error, trace)
        await self.aclose(error)

    # As a decorator.

    def __getstate__(self) -> dict[str, Any]:
        # Not the key: a pickle may go anywhere, a key only to its server.
        return self.__dict__ | {"_api_key": None, "_session": None, "_around": None, "_active": None}


class UnitOfWork(Unit):
    """A session scope: `with`, `async with`, or a decorator."""

    if TYPE_CHECKING:

        def __enter__(self) -> Session: ...

        async def __aenter__(self) -> Session: ...

    def _again(self) -> UnitOfWork:
        return UnitOfWork(
            self._opening, url=self._url, api_key=self._api_key, options=self._options, reraise=self._reraise
        )

    def __call__(self, function: F, /) -> F:
        """Return the function with a session around each of its calls, of the same kind."""
        return around(function, self._again)  # type: ignore[no-any-return]


def tappass_session(
    *,
    url: str | None = None,
    api_key: str | None = None,
    name: str = "",
    agent: str = "",
    metadata: Mapping[str, Any] | None = None,
    mode: str = "",
    raise_on_redaction: bool | None = None,
    respect_breakglass: bool | None = None,
    on_approval: str | None = None,
    approval_timeout_s: float | None = None,
) -> UnitOfWork:
    """Open a session on the plane for the length of a block; calls inside belong to it.

    Nested sessions are children and inherit what they do not say themselves. It closes as completed, failed or
    suspended (an approval is awaited). Use it as `with`, as `async with`, or as a decorator.

    Args:
        url: the plane; by default the active session's, else `TAPPASS_URL`, `tappass.toml`, or `.tappass/` here.
        api_key: the key for that url, and for no other.
        name: what the session is called in the log and in rules (`session: nightly-*`).
        agent: who acts; a registered agent's name, `default` otherwise.
        metadata: JSON values kept beside the log, readable in rules as `session.metadata`.
        mode: `observe` decides and records but lets policy's refusals pass; needs `allow_observe: true`.
        raise_on_redaction: raise RedactionApplied instead of handing over redacted values.
        respect_breakglass: go on under an emergency override instead of raising BreakGlassActive.
        on_approval: `wait` holds a call until people have decided; `raise`, the default, raises ApprovalRequired.
        approval_timeout_s: how long to wait, in seconds, before raising; None: until the approval expires.

    Raises:
        TapPassConfigError: the url, the mode or the policy is wrong.
        TapPassConnectionError: the plane cannot record the session.
    """
    opening = opening_of(name=name, agent=agent, metadata=metadata, mode=mode)
    options = Options(
        raise_on_redaction=raise_on_redaction,
        respect_breakglass=respect_breakglass,
        on_approval=on_approval,
        approval_timeout_s=approval_timeout_s,
    )
    return UnitOfWork(opening, url=url, api_key=api_key, options=options)


def opening_of(*, metadata: Mapping[str, Any] | None, **texts: str) -> Opening:
    """Return the opening of a session, its metadata in JSON types.

    Raises:
        TapPassConfigError: something is no text, or part of the metadata cannot be recorded.
    """
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TapPassConfigError(f"the session was not opened: `{name}` is text, not {type(text).__name__}")
    if not isinstance(metadata, Mapping | None):
        raise TapPassConfigError(f"the session was not opened: `metadata` is a dict, not {type(metadata).__name__}")
    told: dict[str, Any] = {}
    for key, value in (metadata or {}).items():
        try:
            told |= project({key: value}, "", {}, {})
        except Unprojectable as error:
            raise TapPassConfigError(
                f"the session was not opened: its metadata cannot be recorded: `{printable(str(key))}` ({error.why}); "
                "use JSON types"
            ) from None
    fields: dict[str, Any] = {"metadata": told, **texts}
    return Opening(**fields)


# One object serves both; the second name says at the call which one is meant.
tappass_session_async = tappass_session


@overload
def governed(function: F, /) -> F: ...
@overload
def governed(
    *,
    name: str = "",
    url: str | None = None,
    api_key: str | None = None,
    agent: str = "",
    metadata: Mapping[str, Any] | None = None,
    mode: str = "",
    raise_on_redaction: bool | None = None,
    respect_breakglass: bool | None = None,
    on_approval: str | None = None,
    approval_timeout_s: float | None = None,
) -> Callable[[F], F]: ...
def governed(function: Any = None, /, *, name: str = "", **options: Any) -> Any:
    """Put a session around each call of a function; see `tappass_session` for the options.

    The session is called like the function unless `name` says otherwise. Around what has one already, with the same
    options, it adds nothing.

    Raises:
        TapPassConfigError: the function has a session already, with other options.
    """
    if isinstance(function, str):
        raise TapPassConfigError(f"@governed takes its options by name; write @governed(name={function!r})")

    def decorate(target: Any) -> Any:
        asked = options | {"name": name}
        return once("@governed", asked, target, tappass_session(name=name or title(target), **options))

    return decorate if function is None else decorate(function)
