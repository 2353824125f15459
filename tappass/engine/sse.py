"""Reading server-sent events (WHATWG HTML, section 9.2.6) from bytes as they arrive."""

from __future__ import annotations

MAX_EVENT_BYTES = 1024 * 1024


class EventTooLargeError(ValueError):
    """One event is longer than the bound, so the rest is not read."""


class EventReader:
    """Cuts a byte stream into the data of its events.

    Lines end in LF, CRLF or CR, in whatever pieces they come; comments and fields other than `data` are skipped,
    and the `data` lines of one event are joined by LF. Holds at most `limit` bytes of one event.
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._rest = b""
        self._after_cr = False
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next bytes; return the data of every event that they complete.

        Raises:
            EventTooLargeError: an event is longer than the limit.
        """
        if self._after_cr and piece:
            # A CRLF that was cut in the middle ends one line, not two.
            piece = piece.removeprefix(b"\n")
            self._after_cr = False
        if not piece:
            return []
        self._after_cr = piece.endswith(b"\r")
        *lines, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events = [event for line in lines if (event := self._line(line)) is not None]
        self._bound(len(self._rest))
        return events

    def finish(self) -> list[bytes]:
        """Return the event that the end of the stream completes: servers forget the last empty line."""
        if self._rest:
            self._line(self._rest)
        self._rest = b""
        last = self._line(b"")
        return [] if last is None else [last]

    def _line(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data, self._size = self._data, [], 0
            return b"\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._bound(len(value))
            self._size += len(value)
            self._data.append(value.removeprefix(b" "))
        return None

    def _bound(self, more: int) -> None:
        if self._size + more > self._limit:
            raise EventTooLargeError
