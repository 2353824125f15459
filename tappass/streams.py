"""Streamed answers: iterate, close, settle once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from tappass.enforcement.port import AsyncChunkSource, ChunkSource
from tappass.errors import GovernanceDecision, TapPassError
from tappass.wire.chat import ChatChunk

S = TypeVar("S", bound="ChatStream")
A = TypeVar("A", bound="AsyncChatStream")

Refused = Callable[[GovernanceDecision], Any]


class ChatStream:
    """An answer as it arrives: an iterator of `ChatChunk`.

    The call is decided when the first chunk is asked for. It settles once: as completed at the end, as abandoned if
    the stream is closed or dropped before it.
    """

    def __init__(self, begin: Callable[[], ChunkSource], refused: Refused) -> None:
        self._begin = begin
        self._refused = refused
        self._source: ChunkSource | None = None
        self._chunks: Iterator[ChatChunk] | None = None
        self._closed = False

    def __iter__(self) -> Iterator[ChatChunk]:
        return self

    def __next__(self) -> ChatChunk:
        if self._closed:
            raise StopIteration
        try:
            if self._chunks is None:
                self._source = self._begin()
                self._chunks = iter(self._source)
            return next(self._chunks)
        except GovernanceDecision as error:
            self._closed = True
            self._refused(error)
            raise
        except (StopIteration, TapPassError):
            self._closed = True
            raise

    def close(self) -> None:
        """End it; what the model has not said yet is not waited for."""
        self._closed = True
        if self._source is not None:
            self._source.close()

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncChatStream:
    """An answer as it arrives: an async iterator of `ChatChunk`; decided and settled as `ChatStream` is."""

    def __init__(self, begin: Callable[[], Awaitable[AsyncChunkSource]], refused: Refused) -> None:
        self._begin = begin
        self._refused = refused
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
            return await anext(self._chunks)
        except GovernanceDecision as error:
            self._closed = True
            self._refused(error)
            raise
        except (StopAsyncIteration, TapPassError):
            self._closed = True
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
