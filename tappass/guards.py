"""What every guard is made of: a unit of work around a framework's entrypoint, decorator factory and context in one."""

from __future__ import annotations

import contextlib
import inspect
import types
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, ClassVar, Generic, TypedDict, TypeVar

import wrapt

from tappass.around import around, asteps, once, steps, title
from tappass.errors import ApprovalRequired, TapPassConfigError
from tappass.scopes import Unit, opening_of
from tappass.session.session import SUSPENDED, Options, Session

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_guards: ContextVar[tuple[Guard[Any], ...]] = ContextVar("tappass_guards", default=())


class GuardOptions(TypedDict, total=False):
    """What every guard can be asked for.

    Attributes:
        url: the plane, if not the active session's; by default as in `tappass_session`.
        api_key: the key for that url, and for no other.
        name: what the session is called; by default as the framework names the run.
        agent: who acts; a registered agent's name, `default` otherwise.
        metadata: JSON values kept beside the log, readable in rules as `session.metadata`.
        on_block: `raise`, the default, ends the unit with the refusal, also where the framework swallowed it; `tell`
            lets the model read a short refusal and go on. Approvals suspend either way.
        raise_on_redaction, respect_breakglass, on_approval, approval_timeout_s: as in `tappass_session`.
    """

    url: str | None
    api_key: str | None
    name: str
    agent: str
    metadata: Mapping[str, Any] | None
    on_block: str
    raise_on_redaction: bool | None
    respect_breakglass: bool | None
    on_approval: str | None
    approval_timeout_s: float | None


_OPTIONS = ("raise_on_redaction", "respect_breakglass", "on_approval", "approval_timeout_s", "on_block")


def current_guard(of: type[Guard[Any]] | None = None) -> Guard[Any] | None:
    """Return the innermost guard that is active here: hooks of one further out have nothing to say.

    Args:
        of: an adapter's class: the innermost of its guards, whatever guards of other frameworks stand in between.
    """
    return next((guard for guard in reversed(_guards.get()) if of is None or isinstance(guard, of)), None)


class Guard(Unit, Generic[T]):
    """A guard: `guard_x(...)(entrypoint)` decorates, `with guard_x(target) as guarded` (or `async with`) enters.

    An adapter derives from it and says what its framework needs: `entrypoints`, `hooks`, `bind`, `titled`, and
    `deliver` for streams of a kind of its own.

    Args:
        target: the framework's object, to be entered; None for a decorator.
        asked: what the caller asked for.
        entry: the callable that is decorated, once it is known.
    """

    guard: ClassVar[str] = "guard"
    """What users write."""
    kind: ClassVar[str] = "run"
    """The framework's word for the unit of work."""
    entrypoints: ClassVar[frozenset[str]] = frozenset()
    """The methods of a target that begin a run."""

    def __init__(self, target: T | None, asked: Mapping[str, Any], entry: Any = None) -> None:
        if unknown := sorted(set(asked) - set(GuardOptions.__annotations__)):
            raise TapPassConfigError(f"{self.guard}() knows no {', '.join(unknown)}")
        self.target = target
        self.entry = entry
        self._said = dict(asked)
        self._streams = 0
        self._left = self._over = False
        self._paused: set[str] = set()
        self.inner: list[Unit] = []
        """Open units that end with this one, those further in last: sub-graphs."""
        self._error: BaseException | None = None
        self._resumed = ""
        opening = opening_of(
            name=asked.get("name") or self.titled(),
            kind=self.kind,
            agent=asked.get("agent") or "",
            metadata=asked.get("metadata"),
        )
        options = Options(**{option: asked.get(option) for option in _OPTIONS})
        super().__init__(opening, url=asked.get("url"), api_key=asked.get("api_key"), options=options, reraise=True)

    # For adapters to say.

    def titled(self) -> str:
        """Return what the session is called where the caller does not say: as the framework names the run."""
        named = self.target if self.target is not None else getattr(self.entry, "__self__", None)
        name = getattr(named, "name", None)
        return name if isinstance(name, str) and name else title(self.entry) if self.entry is not None else ""

    def hooks(self) -> AbstractContextManager[Any]:
        """Return a context in which the framework's own hooks lead here."""
        return contextlib.nullcontext()

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what an entrypoint is to be called with: the framework's objects among it in governed form.

        Of a method, its receiver is the first.
        """
        return args, kwargs

    def resumes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the resume token of the approval that this call of an entrypoint goes on from, "" for none."""
        return ""

    async def aresumes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return that token; for frameworks that keep it where only async code can look."""
        return self.resumes(args, kwargs)

    # The unit.

    def pause(self, error: ApprovalRequired) -> None:
        """Note that the framework pauses the run for an approval: the unit ends as suspended, and raises nothing."""
        self._paused.add(error.resume_token)
        if self.session.latch is not None:
            self.session.latch.told(error)

    def unpause(self, error: ApprovalRequired) -> None:
        """Note that the framework went on after all."""
        self._paused.discard(error.resume_token)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the session the active one, with the framework's hooks."""
        with super().active():
            before = _guards.get()
            if self in before:
                yield
                return
            _guards.set((*before, self))
            try:
                with self.hooks():
                    yield
            finally:
                _guards.set(before)

    def foresee(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See whether this goes on from an approval."""
        self._resumed = self.resumes(args, kwargs)

    async def aforesee(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See whether this goes on from an approval. The async twin of `foresee`."""
        self._resumed = await self.aresumes(args, kwargs)

    def _begin(self, plane: Any, opening: Any) -> Any:
        return plane.sync.resume(self._resumed) if self._resumed else plane.sync.open(opening)

    async def _abegin(self, plane: Any, opening: Any) -> Any:
        return await (plane.aio.resume(self._resumed) if self._resumed else plane.aio.open(opening))

    def _opened(self, record: Any, plane: Any, options: Options) -> Session:
        session = super()._opened(record, plane, options)
        session.resume_token = self._resumed or session.resume_token
        return session

    def _closing(self, error: BaseException | None) -> tuple[str, BaseException | None]:
        status, swallowed = super()._closing(error)
        if self._paused and error is None and swallowed is None:
            self.session.status = status = SUSPENDED
        return status, swallowed

    def close(self, error: BaseException | None = None) -> None:
        """Close the session, or leave that to the last stream that still runs in it."""
        if not self._stays(error):
            for unit in reversed(self.inner):
                unit.close(error)
            super().close(error)

    async def aclose(self, error: BaseException | None = None) -> None:
        """Close the session, or leave that to the last stream that still runs in it."""
        if not self._stays(error):
            for unit in reversed(self.inner):
                await unit.aclose(error)
            await super().aclose(error)

    def _stays(self, error: BaseException | None) -> bool:
        """Tell whether the session stays open, or is closed already."""
        if self._streams and error is None:
            self._left = True
            return True
        before, self._over = self._over, True
        return before

    # What is called, and what comes of it.

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an entrypoint, the framework's objects in governed form."""
        if isinstance(function, types.MethodType):
            function, args = function.__func__, (function.__self__, *args)
        args, kwargs = self.bind(args, kwargs)
        return function(*args, **kwargs)

    def deliver(self, result: Any) -> Any:
        """Return a result; what goes on after this (an awaitable, a stream) does so inside the unit."""
        if inspect.isawaitable(result):
            self._streams += 1
            return self._awaited(result)
        if inspect.isgenerator(result):
            return self.stream(result)
        if inspect.isasyncgen(result):
            return self.astream(result)
        return result

    def stream(self, source: Iterator[Any]) -> Iterator[Any]:
        """Return an iterator whose code runs inside the unit, which stays open until it ends or is closed."""
        begun, begin = self._hold(source)
        stream = steps(self, begin, self._release)
        weakref.finalize(stream, _dropped, begun, self)
        return stream

    def astream(self, source: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Return an async iterator. The async twin of `stream`."""
        begun, begin = self._hold(source)
        stream = asteps(self, begin, self._arelease)
        weakref.finalize(stream, _dropped, begun, self)
        return stream

    def _hold(self, source: Any) -> tuple[list[bool], Callable[[], Any]]:
        self._streams += 1
        begun: list[bool] = []

        def begin() -> Any:
            begun.append(True)
            return source

        return begun, begin

    async def _awaited(self, awaitable: Any) -> Any:
        try:
            with self.active():
                result = self.deliver(await awaitable)
        except BaseException as error:
            await self._arelease(error)
            raise
        await self._arelease(None)
        return result

    def _ends(self, error: BaseException | None) -> bool:
        """Count a stream that ended; tell whether it was the last, and its unit has been left."""
        self._streams -= 1
        if error is not None and not isinstance(error, GeneratorExit):
            self._error = self._error or error
        return self._left and not self._streams

    def _release(self, error: BaseException | None) -> None:
        if self._ends(error):
            self.close(self._error)

    async def _arelease(self, error: BaseException | None) -> None:
        if self._ends(error):
            await self.aclose(self._error)

    # As a context.

    def __enter__(self) -> Guarded[T]:
        super().__enter__()
        return Guarded(self.target, self)

    async def __aenter__(self) -> Guarded[T]:
        await super().__aenter__()
        return Guarded(self.target, self)

    def method(self, bound: Callable[..., Any]) -> Callable[..., Any]:
        """Return an entrypoint of the target, to be called as often as one likes while the guard is entered."""

        def entrypoint(*args: Any, **kwargs: Any) -> Any:
            if self._over or self._left:
                raise TapPassConfigError(f"{title(bound)}() was not called: its {self.guard}() has ended")
            with self.active():
                if inspect.iscoroutinefunction(bound):
                    return self.deliver(self._entered(bound, args, kwargs))
                if inspect.isasyncgenfunction(bound):
                    return self.deliver(self._entered_stream(bound, args, kwargs))
                self._resume_with(self.resumes(_given(bound, args), kwargs))
                return self.deliver(self.call(bound, args, kwargs))

        return entrypoint

    async def _entered(self, bound: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # What it goes on from may be kept where only async code can look.
        self._resume_with(await self.aresumes(_given(bound, args), kwargs))
        return await self.call(bound, args, kwargs)

    async def _entered_stream(
        self, bound: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]:
        self._resume_with(await self.aresumes(_given(bound, args), kwargs))
        async with contextlib.aclosing(self.call(bound, args, kwargs)) as stream:
            async for item in stream:
                yield item

    def _resume_with(self, token: str) -> None:
        if token:
            self._resumed = self.session.resume_token = token

    # As a decorator.

    def __call__(self, function: F, /) -> F:
        """Return the entrypoint with a session around each of its calls, of the same kind.

        Raises:
            TapPassConfigError: it is guarded already, with other options for the same plane.
        """
        if self.target is not None:
            raise TapPassConfigError(f"enter it: `with {self.guard}(...) as guarded`; or decorate: {self.guard}()(run)")
        return once(self.guard, self._said, function, self._wrapped)  # type: ignore[no-any-return]

    def _wrapped(self, function: Any) -> Any:
        return around(function, lambda: type(self)(None, self._said, function))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_said": self._said | {"api_key": None}}


def guarding(guard: type[Guard[Any]], target: Any, asked: Mapping[str, Any]) -> Any:
    """Return the guard that a factory was asked for; given an entrypoint itself, the entrypoint decorated."""
    if inspect.isroutine(target) and not inspect.isclass(target):
        return guard(None, asked)(target)
    return guard(target, asked)


def _given(bound: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what an entrypoint is called with: of a method, its receiver is the first."""
    return getattr(bound, "__self__", None), *args


def _dropped(begun: list[bool], guard: Guard[Any]) -> None:
    if not begun and guard._ends(GeneratorExit()):
        guard.close()


class Guarded(wrapt.ObjectProxy[T], Generic[T]):
    """A framework's object while its guard is entered; everything about it is as it was.

    Attributes:
        session: the unit's session.
    """

    def __init__(self, wrapped: Any, guard: Guard[Any]) -> None:
        super().__init__(wrapped)
        self._self_guard = guard

    @property
    def session(self) -> Session:
        """The unit's session."""
        return self._self_guard.session

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__wrapped__, name)
        if name in self._self_guard.entrypoints and callable(value):
            return self._self_guard.method(value)
        return value

    def __copy__(self) -> Any:
        raise TapPassConfigError("a guarded object is not copied: copy the one that was given to the guard")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.__copy__()

    def __reduce__(self) -> Any:
        raise TapPassConfigError("a guarded object is not pickled: its guard ends with this process")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()
