"""The effects a flow may yield; a driver carries each out and sends its result back in."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any, Generic, TypeAlias, TypeVar, cast

from tappass.wire.decisions import Decision, DecisionRequest
from tappass.wire.endings import Ending, Settlement
from tappass.wire.obligations import ScanResult

T = TypeVar("T")

running: ContextVar[str] = ContextVar("tappass_task", default="")
"""The task id of the governed call that runs in this context, "" between calls."""


class Effect(Generic[T]):
    """Something only a driver can do; its result has type T."""

    __slots__ = ()


class Decide(Effect[Decision]):
    """Ask the plane whether a call may run."""

    __slots__ = ("request",)

    def __init__(self, request: DecisionRequest) -> None:
        self.request = request


class Run(Effect[Any]):
    """Call what was governed, with exactly these arguments."""

    __slots__ = ("args", "call", "kwargs", "task_id")

    def __init__(
        self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], task_id: str = ""
    ) -> None:
        self.call = call
        self.args = args
        self.kwargs = kwargs
        self.task_id = task_id


class Wait(Effect[str]):
    """Wait for people to decide on an approval; answers how it stands then (`approved`, `denied`, `pending`, …)."""

    __slots__ = ("timeout_s", "token")

    def __init__(self, token: str, timeout_s: float) -> None:
        self.token = token
        self.timeout_s = timeout_s


class Settle(Effect[Settlement]):
    """Close the record of a call; shielded from cancellation and bounded in time."""

    __slots__ = ("ending",)

    def __init__(self, ending: Ending) -> None:
        self.ending = ending


class OpenScanner(Effect[Any]):
    """Get a reader for a streamed result."""

    __slots__ = ("scan", "session_id")

    def __init__(self, scan: ScanResult, session_id: str) -> None:
        self.scan = scan
        self.session_id = session_id


class Pull(Effect[Any]):
    """Advance the governed stream: send it `sent`, or throw `error` into it; answers an item or `End`."""

    __slots__ = ("error", "sent", "source")

    def __init__(self, source: Any, sent: Any = None, error: BaseException | None = None) -> None:
        self.source = source
        self.sent = sent
        self.error = error


class Emit(Effect[Any]):
    """Hand one item of a stream to the caller; answers what the caller sends back."""

    __slots__ = ("item",)

    def __init__(self, item: Any) -> None:
        self.item = item


class End:
    """A stream's own end, with what it returned."""

    __slots__ = ("value",)

    def __init__(self, value: Any = None) -> None:
        self.value = value


Flow: TypeAlias = Generator[Effect[Any], Any, T]


def do(effect: Effect[T]) -> Flow[T]:
    """Yield one effect and return its result, typed."""
    return cast(T, (yield effect))
