"""Server-sent events, read from bytes in whatever pieces they come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tappass.engine.sse import EventReader, EventTooLargeError

STREAM = b": hello\r\nid: 7\r\ndata: one\r\n\r\ndata:two\ndata: three\n\n\n\ndata\rdata: \xc3\xbc\r\r:bye\n\ndata: last"
EVENTS = [b"one", b"two\nthree", "\nü".encode(), b"last"]


@given(st.lists(st.integers(0, len(STREAM))))
def test_every_cut_gives_the_same_events(cuts: list[int]) -> None:
    reader = EventReader()
    edges = [0, *sorted(cuts), len(STREAM)]
    found = [event for start, end in pairwise(edges) for event in reader.feed(STREAM[start:end])]
    assert found + reader.finish() == EVENTS


@pytest.mark.parametrize(
    "pieces", [[b"data: " + b"x" * 101], [b"x" * 60, b"x" * 60], [b"data: " + b"x" * 50 + b"\n"] * 3]
)
def test_event_is_bounded(pieces: list[bytes]) -> None:
    reader = EventReader(limit=100)
    with pytest.raises(EventTooLargeError):
        for piece in pieces:
            reader.feed(piece)


def test_many_small_events_are_not_one_large_one() -> None:
    reader = EventReader(limit=100)
    assert len(reader.feed(b"data: 12345678901234567890\n\n" * 50)) == 50
