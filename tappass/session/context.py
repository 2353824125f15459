"""Where am I? One ContextVar for the active session."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

from tappass.session.session import Session

P = ParamSpec("P")
R = TypeVar("R")

_active: ContextVar[Session | None] = ContextVar("tappass_session", default=None)


def current_session() -> Session | None:
    """Return the active session, or None outside any.

    Tasks and `anyio.to_thread` inherit it; a bare executor or thread does not, see `carry`.
    """
    return _active.get()


def enter(session: Session | None) -> Session | None:
    """Make a session the active one; return the one before, to be restored by `enter` again.

    By value, not by token: a generator may be closed in another context than it was started in.
    """
    before = _active.get()
    _active.set(session)
    return before


class Entered:
    """A context in which a session is the active one."""

    __slots__ = ("_before", "_session")

    def __init__(self, session: Session | None) -> None:
        self._session = session

    def __enter__(self) -> None:
        self._before = enter(self._session)

    def __exit__(self, *_: object) -> None:
        enter(self._before)


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that runs in the session that is active now, on whatever thread it is called.

    For `ThreadPoolExecutor.submit` and `threading.Thread`, which do not carry context by themselves.
    """
    session = _active.get()

    @functools.wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        before = enter(session)
        try:
            return function(*args, **kwargs)
        finally:
            enter(before)

    return carried
