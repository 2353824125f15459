"""Reading what an upstream answers, free of I/O: bytes in, a completion or chunks out."""

from __future__ import annotations

from typing import Protocol

import msgspec

from tappass.engine import upstream_errors
from tappass.engine.openai_shapes import Body, Chunk, Completion, chunk_of, completion_of, read_body
from tappass.engine.sse import EventReader, EventTooLargeError

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_SPARE_BYTES = 64 * 1024
_STREAM_OPTIONS_REFUSED = (400, 422)


class Origin(Protocol):
    """Who answers, as far as a message may say."""

    @property
    def name(self) -> str:
        """The host, without credentials."""
        ...

    @property
    def key_env(self) -> str:
        """The variable its key comes from."""
        ...


class BodyReader:
    """Collects a whole answer, at most `MAX_BODY_BYTES` of it."""

    def __init__(self, origin: Origin, requested: str) -> None:
        self._origin = origin
        self._requested = requested
        self._bytes = bytearray()

    def feed(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            TapPassConnectionError: there are too many.
        """
        self._bytes += piece
        if len(self._bytes) > MAX_BODY_BYTES:
            raise upstream_errors.malformed(self._origin.name, f"sent over {MAX_BODY_BYTES // 2**20} MiB")

    def completion(self, status: int) -> Completion:
        """Return the answer.

        Raises:
            TapPassConnectionError: it is an error, or not a completion.
        """
        if not 200 <= status < 300:
            raise upstream_errors.refused(self._origin.name, status, bytes(self._bytes), self._origin.key_env)
        body = _read(self._origin, bytes(self._bytes))
        completion = completion_of(body, self._requested)
        if completion is None:
            raise upstream_errors.malformed(self._origin.name, "answered without any choice")
        return completion


class ChunkReader:
    """Turns the bytes of a streamed answer into chunks.

    An answer is complete once `[DONE]` has come or, from servers that leave it out, a `finish_reason`.
    """

    def __init__(self, origin: Origin, *, may_ask_again: bool = False) -> None:
        self._origin = origin
        self._may_ask_again = may_ask_again
        self._events = EventReader()
        self._status = 0
        self._error = bytearray()
        self._left = MAX_SPARE_BYTES
        self._finished = False
        self.done = False
        self.refused = False

    def begin(self, status: int, content_type: str) -> None:
        """Take the answer's head.

        Raises:
            TapPassConnectionError: a success that is not an event stream.
        """
        self._status = status
        if self._ok and content_type.partition(";")[0].strip().lower() != "text/event-stream":
            raise upstream_errors.malformed(self._origin.name, "did not answer with an event stream")

    def feed(self, piece: bytes) -> list[Chunk]:
        """Take the next bytes; return the chunks that they complete.

        Raises:
            TapPassConnectionError: an event is malformed, too large, or reports an error.
        """
        if self.done or not self._ok:
            self._left -= len(piece)
            self._error += b"" if self.done else piece
            return []
        try:
            return self._chunks(self._events.feed(piece))
        except EventTooLargeError:
            raise upstream_errors.malformed(self._origin.name, "sent an event that is too large") from None

    def finish(self) -> list[Chunk]:
        """Take the end of the bytes; return the last chunks.

        Raises:
            TapPassConnectionError: it was an error, or the answer is not complete.
        """
        if not self._ok:
            self.refused = self._may_ask_again and self._status in _STREAM_OPTIONS_REFUSED
            if self.refused:
                return []
            raise upstream_errors.refused(self._origin.name, self._status, bytes(self._error), self._origin.key_env)
        rest = [] if self.done else self._chunks(self._events.finish())
        if not (self.done or self._finished):
            raise upstream_errors.truncated(self._origin.name)
        return rest

    @property
    def enough(self) -> bool:
        """Whether to stop reading: beyond `[DONE]`, and in an error, only so much is read.

        What follows `[DONE]` is read at all because a connection is used again only once its answer has ended.
        """
        return self._left <= 0

    @property
    def _ok(self) -> bool:
        return 200 <= self._status < 300

    def _chunks(self, events: list[bytes]) -> list[Chunk]:
        chunks = []
        for event in events:
            if event.strip() == b"[DONE]":
                self.done = True
                break
            body = _read(self._origin, event)
            if body.error is not None:
                raise upstream_errors.failed_midway(self._origin.name, body.error)
            chunk = chunk_of(body)
            self._finished = self._finished or bool(chunk.finish_reason)
            chunks.append(chunk)
        return chunks


def _read(origin: Origin, data: bytes) -> Body:
    try:
        return read_body(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise upstream_errors.malformed(origin.name, "answered in a shape that chat completions do not have") from None
