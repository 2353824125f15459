"""Streamed answers: iterate, close, settle once."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from tappass import forking
from tappass.errors import GovernanceDecision
from tappass.wire.chat import ChatChunk
from tappass.wire.refusals import BreakGlass

if TYPE_CHECKING:
    from queue import SimpleQueue

    from tappass.enforcement.port import AsyncChunkSource, ChunkSource

S = TypeVar("S", bound="ChatStream")
A = TypeVar("A", bound="AsyncChatStream")

Refused = Callable[[GovernanceDecision], Any]
Noted = Callable[[BreakGlass], Any]


def _queue() -> SimpleQueue[int]:
    from queue import SimpleQueue

    return SimpleQueue()


class _Kept:
    """The open streams of this process, each closed on a thread of its own kind once its owner drops it.

    A finaliser may run at any allocation, inside any lock, also the HTTP pool's, which closing takes. So what is
    finalised holds no more than a number, and puts that on a queue.
    """

    def __init__(self) -> None:
        self._sources: dict[int, Iterator[ChatChunk]] = {}
        self._numbers = itertools.count(1)
        self._dropped = _queue()
        self._lock = forking.Lock()
        self._closer: threading.Thread | None = None
        self._inherited: list[Any] = []

    def add(self, source: Iterator[ChatChunk]) -> int:
        """Keep a stream; return its number."""
        with self._lock:
            if self._closer is None:
                self._closer = threading.Thread(target=self._close_dropped, name="tappass-streams", daemon=True)
                self._closer.start()
        number = next(self._numbers)
        self._sources[number] = source
        return number

    def next(self, number: int) -> ChatChunk:
        """Return a stream's next chunk."""
        return next(self._sources[number])

    def close(self, number: int) -> None:
        """Close a stream now."""
        source: Any = self._sources.pop(number, None)
        if source is not None:
            source.close()

    def drop(self, number: int) -> None:
        """Have a stream closed; takes no lock."""
        self._dropped.put(number)

    def after_fork(self) -> None:
        """Leave the parent's streams to the parent: never closed here, so never settled here."""
        self._inherited.append(self._sources)
        self._sources, self._dropped, self._closer = {}, _queue(), None

    def _close_dropped(self) -> None:
        while True:
            number = self._dropped.get()
            # Nobody is left to tell, and the next one must be closed too.
            with contextlib.suppress(Exception):
                self.close(number)


_kept = _Kept()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_kept.after_fork)


def _told(chunk: ChatChunk, noted: Noted) -> ChatChunk:
    if chunk.break_glass is not None:
        noted(chunk.break_glass)
    return chunk


class ChatStream:
    """An answer as it arrives: an iterator of `ChatChunk`.

    The call is decided when the first chunk is asked for. It settles once: as completed at the end, as abandoned if
    the stream is closed or dropped before it.
    """

    def __init__(self, begin: Callable[[], ChunkSource], refused: Refused, noted: Noted) -> None:
        self._begin = begin
        self._refused = refused
        self._noted = noted
        self._number = 0
        self._closed = False

    def __iter__(self) -> Iterator[ChatChunk]:
        return self

    def __next__(self) -> ChatChunk:
        if self._closed:
            raise StopIteration
        try:
            if not self._number:
                self._number = _kept.add(iter(self._begin()))
            return _told(_kept.next(self._number), self._noted)
        except BaseException as error:
            self.close()
            if isinstance(error, GovernanceDecision):
                self._refused(error)
            raise

    def close(self) -> None:
        """End it; what the model has not said yet is not waited for."""
        self._closed = True
        _kept.close(self._number)

    def __del__(self) -> None:
        if self._number and not self._closed:
            _kept.drop(self._number)

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncChatStream:
    """An answer as it arrives: an async iterator of `ChatChunk`; decided and settled as `ChatStream` is."""

    def __init__(self, begin: Callable[[], Awaitable[AsyncChunkSource]], refused: Refused, noted: Noted) -> None:
        self._begin = begin
        self._refused = refused
        self._noted = noted
        self._source: AsyncChunkSource | None = None
        self._chunks: AsyncIterator[ChatChunk] | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[ChatChunk]:
        return self

    async def __anext__(self) -> ChatChunk:
        if self._closed:
            raise StopAsyncIteration
        try:
            if self._chunks is None:
                self._source = await self._begin()
                self._chunks = aiter(self._source)
            return _told(await anext(self._chunks), self._noted)
        except BaseException as error:
            self._closed = True
            if isinstance(error, GovernanceDecision):
                self._refused(error)
            raise

    async def aclose(self) -> None:
        """End it; what the model has not said yet is not waited for."""
        self._closed = True
        if self._source is not None:
            await self._source.aclose()

    async def __aenter__(self: A) -> A:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


__all__ = ["AsyncChatStream", "ChatStream"]
