"""Units of work: one object that is a `with`, an `async with` and a decorator."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import decorator

from tappass.enforcement.latch import Latch
from tappass.enforcement.projection import Unprojectable, project
from tappass.enforcement.verdicts import printable
from tappass.errors import ApprovalRequired, TapPassConfigError, TapPassError
from tappass.plane.connect import connect
from tappass.session.context import current_session, enter
from tappass.session.registry import registry
from tappass.session.session import COMPLETED, FAILED, SUSPENDED, Options, Session
from tappass.toolspec import MARK as TOOL_MARK
from tappass.toolspec import ToolSpec, is_function
from tappass.wire.sessions import Opening

if TYPE_CHECKING:
    from tappass.enforcement.port import Plane
    from tappass.wire.sessions import SessionRecord

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

MARK = "__tappass_unit__"


class UnitOfWork:
    """One session scope; opened anew for each call where it decorates, used once where it is entered."""

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
        self._before: Session | None = None
        self._session: Session | None = None

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
        parent = current_session()
        if parent is None:
            return self._opening, self._options
        options = self._options.over(parent.options)
        if parent.plane is not plane:
            return self._opening, options
        inherited = {"parent": parent.session_id, "agent": self._opening.agent or parent.agent}
        fields = {name: getattr(self._opening, name) for name in self._opening.__struct_fields__}
        return Opening(**(fields | inherited)), options

    def _opened(self, record: Any, plane: Plane, options: Options) -> Session:
        self._session = Session(record, plane, options, latch=Latch())
        registry.add(self._session)
        return self._session

    def _closing(self, error: BaseException | None) -> tuple[str, BaseException | None]:
        """Return how the session ends, and the refusal that a framework swallowed where a guard brings it back."""
        session = self._session
        assert session is not None
        registry.discard(session)
        swallowed = session.latch.last if self._reraise and error is None and session.latch is not None else None
        cause = error or swallowed
        if cause is None or isinstance(cause, GeneratorExit):
            session.status = COMPLETED
        else:
            session.status = SUSPENDED if isinstance(cause, ApprovalRequired) else FAILED
        return session.status, swallowed

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

    def __enter__(self) -> Session:
        session = self.open()
        self._before = enter(session)
        return session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        enter(self._before)
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

    async def __aenter__(self) -> Session:
        session = await self.aopen()
        self._before = enter(session)
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        enter(self._before)
        await self.aclose(error)

    # As a decorator.

    def __getstate__(self) -> dict[str, Any]:
        # Not the key: a pickle may go anywhere, a key only to its server.
        return self.__dict__ | {"_api_key": None, "_session": None, "_before": None}

    def _again(self) -> UnitOfWork:
        return UnitOfWork(
            self._opening, url=self._url, api_key=self._api_key, options=self._options, reraise=self._reraise
        )

    def __call__(self, function: F, /) -> F:
        """Return the function with a session around each of its calls, of the same kind."""
        return around(function, self._again)  # type: ignore[no-any-return]


def around(function: Any, again: Callable[[], UnitOfWork]) -> Any:
    """Wrap one kind of callable in units of work."""
    if isinstance(function, staticmethod | classmethod):
        return type(function)(around(function.__func__, again))
    if isinstance(function, types.MethodType):
        return types.MethodType(around(function.__func__, again), function.__self__)
    if inspect.isclass(function) or not callable(function):
        raise TapPassConfigError(f"a session cannot stand around {function!r:.80}; decorate a function or a method")
    wrapper: Any
    if inspect.isasyncgenfunction(function):
        wrapper = functools.wraps(function)(_around_astream(function, again))
    elif inspect.isgeneratorfunction(function):
        wrapper = functools.wraps(function)(_around_stream(function, again))
    elif is_function(function):
        wrapper = decorator.decorate(function, _caller(function, again), kwsyntax=True)
    else:
        from tappass.proxies import SessionCallable

        return SessionCallable(function, again)
    if isinstance(spec := getattr(wrapper, TOOL_MARK, None), ToolSpec):
        spec.cover(wrapper)
    return wrapper


def _caller(function: Any, again: Callable[[], UnitOfWork]) -> Any:
    if inspect.iscoroutinefunction(function):

        async def acaller(inner: Any, /, *args: Any, **kwargs: Any) -> Any:
            async with again():
                return await inner(*args, **kwargs)

        return acaller

    def caller(inner: Any, /, *args: Any, **kwargs: Any) -> Any:
        with again():
            return inner(*args, **kwargs)

    return caller


def _around_stream(function: Any, again: Callable[[], UnitOfWork]) -> Any:
    def stream(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        unit = again()
        session = unit.open()
        source = function(*args, **kwargs)
        step: Callable[[], Any] = functools.partial(next, source)
        try:
            while True:
                before = enter(session)
                try:
                    item = step()
                except StopIteration as stop:
                    unit.close()
                    return stop.value
                finally:
                    # Never active across a yield: the caller's code is not in this session.
                    enter(before)
                try:
                    step = functools.partial(source.send, (yield item))
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step = functools.partial(source.throw, error)
        except BaseException as error:
            source.close()
            unit.close(error)
            raise

    return stream


def _around_astream(function: Any, again: Callable[[], UnitOfWork]) -> Any:
    async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        unit = again()
        session = await unit.aopen()
        source = function(*args, **kwargs)
        step: Callable[[], Any] = functools.partial(anext, source)
        try:
            while True:
                before = enter(session)
                try:
                    item = await step()
                except StopAsyncIteration:
                    break
                finally:
                    enter(before)
                try:
                    step = functools.partial(source.asend, (yield item))
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step = functools.partial(source.athrow, error)
        except BaseException as error:
            await source.aclose()
            await unit.aclose(error)
            raise
        await unit.aclose()

    return stream


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
        asked = options | {"name": name, "api_key": hash(options.get("api_key"))}  # never the key itself
        nothing: dict[str, Any] = {}
        known_asked, known_id = getattr(target, MARK, (nothing, 0))
        if known_id == id(target):
            if other := sorted(o for o in asked.keys() | known_asked.keys() if asked.get(o) != known_asked.get(o)):
                raise TapPassConfigError(f"`{title(target)}` has a session already, with other options: {other}")
            return target
        wrapper = tappass_session(name=name or title(target), **options)(target)
        # The id tells this wrapper from one that merely copied its attributes.
        with contextlib.suppress(AttributeError):
            setattr(wrapper, MARK, (asked, id(wrapper)))
        return wrapper

    return decorate if function is None else decorate(function)


def title(target: Any) -> str:
    """Return what a callable is called."""
    return getattr(target, "__name__", "") or type(target).__name__
