"""Use cases in steps: each yields what it wants written, so that threads and event loops carry out the same one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from tappass.engine.store.ahead import Ask
from tappass.engine.store.port import Store, Tx

T = TypeVar("T")


class Write(NamedTuple):
    """A writing function for `Store.run`; its result, or what it raised, is sent back in."""

    fn: Callable[[Tx], Any]
    ahead: Sequence[Ask] = ()


Steps: TypeAlias = Generator[Write, Any, T]


def carried_out(store: Store, steps: Steps[T]) -> T:
    """Carry a use case out on this thread; return what it returns, or raise."""
    try:
        write = next(steps)
        while True:
            try:
                done = store.run(write.fn, ahead=write.ahead)
            except Exception as error:
                write = steps.throw(error)
            else:
                write = steps.send(done)
    except StopIteration as end:
        result: T = end.value
        return result
