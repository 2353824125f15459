"""Streams of a governed generator: nothing of a match is ever shown, and each one ends on the record."""

from __future__ import annotations

import gc
import itertools

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tappass import PolicyBlockError, RedactionApplied, tappass_session, tool
from tappass.testing import memory_plane

POLICY = """
    version: 1
    rules:
      - {id: mask, tool: 'read*', effect: redact, fields: [result], kinds: [EMAIL]}
    detect:
      secrets: {result: block}
"""
TEXT = "write to ann@acme.com, bob.o'hara+x@example.org and é@ü; or to nobody: a@b."
CLEAN = "write to [EMAIL], [EMAIL] and é@ü; or to nobody: a@b."
SECRET = "AKIAIOSFODNN7EXAMPLE"
SURROUNDED = f"the key {SECRET} opens it"

_items: list[object] = []
_closed: list[str] = []


@tool(name="read")
def read():
    try:
        yield from _items
    finally:
        _closed.append("sync")


@tool(name="read_async")
async def aread():
    try:
        for item in _items:
            yield item
    finally:
        _closed.append("async")


async def _collect():
    return [item async for item in aread()]


def taken(face: str) -> list[object]:
    return list(read()) if face == "sync" else anyio.run(_collect)


def streamed(face: str, *items: object) -> list[object]:
    _items[:] = items
    _closed.clear()
    return taken(face)


@pytest.fixture(params=["sync", "async"])
def face(request):
    return request.param


@pytest.fixture(autouse=True)
def _policy(tappass_plane):
    tappass_plane.policy(POLICY)


def pieces(text, cuts):
    places = [0, *sorted({min(cut, len(text)) for cut in cuts}), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places)]


@given(st.lists(st.integers(0, 90), max_size=12), st.sampled_from([str, bytes, bytearray]), st.booleans())
def test_a_governed_stream_is_redacted_as_its_whole_however_it_is_cut(cuts, kind, singly):
    whole = TEXT if kind is str else TEXT.encode()
    parts = [whole[i : i + 1] for i in range(len(whole))] if singly else pieces(whole, cuts)
    with memory_plane(POLICY):
        shown = streamed("sync", *map(kind, parts))
    assert (b"" if kind is not str else "").join(shown) == (CLEAN if kind is str else CLEAN.encode())


class Text(str):
    """What some clients yield instead of plain text."""

    __slots__ = ()


@pytest.mark.parametrize("kind", [str, Text, str.encode, lambda text: bytearray(text.encode())])
def test_a_match_cut_in_two_is_masked_in_every_kind_of_text(kind, face):
    shown = streamed(face, kind("to ann@ac"), kind("me.com now"))
    assert "".join(s if isinstance(s, str) else s.decode() for s in shown) == "to [EMAIL] now"


def test_what_is_held_back_goes_out_before_an_item_of_another_kind(face):
    shown = streamed(face, "to ann@acme.com", {"mail": "bob@acme.com"}, b"raw eve@ac", b"me.com", 7, None, "end")
    kinds = [type(item) for item in shown]
    assert shown[kinds.index(dict)] == {"mail": "[EMAIL]"}
    before = shown[: kinds.index(dict)]
    after = shown[kinds.index(dict) + 1 :]
    assert "".join(before) == "to [EMAIL]"
    assert b"".join(item for item in after if isinstance(item, bytes)) == b"raw [EMAIL]"
    assert [item for item in after if not isinstance(item, bytes) and item != ""] == [7, None, "end"]


@pytest.mark.parametrize(
    "items",
    [
        (SURROUNDED,),
        tuple(SURROUNDED),
        tuple(SURROUNDED.encode()[i : i + 1] for i in range(len(SURROUNDED))),
        ("fine", {"deep": [SECRET]}),
        ("fine ", SECRET),
        ("x" * 5000, *SURROUNDED, "y" * 5000),
    ],
    ids=["whole", "by character", "by byte", "in an object", "at the end", "in the middle"],
)
def test_a_stream_that_must_not_be_shown_is_stopped_closed_and_settled_as_failed(items, face, audit_events):
    _items[:] = items
    _closed.clear()
    seen = []

    async def main():
        async for item in aread():
            seen.append(item)

    with pytest.raises(PolicyBlockError) as caught:
        if face == "sync":
            for item in read():
                seen.append(item)
        else:
            anyio.run(main)
    assert _closed == [face]
    text = "".join(s.decode() if isinstance(s, bytes) else str(s) for s in seen)
    assert not any(SECRET[:length] in text for length in range(5, len(SECRET)))
    error = caught.value
    assert SECRET not in str(error)
    assert error.task_id
    assert error.audit_url
    assert error.audit_url in str(error)
    assert error.blocked_by
    (ended,) = audit_events(type="call.ended")
    assert (ended.status, ended.error_type, ended.task_id) == ("failed", "PolicyBlockError", error.task_id)
    assert [found.partition(":")[2] for found in ended.findings] == ["1"]


@pytest.mark.parametrize(
    "items",
    [
        ("to ann@acme.com",),
        ("to ann@acme.com", " and more" * 500),
        ("fine", {"mail": "ann@acme.com"}),
        (b"to ann@acme.com",),
        ("to ann@acme.com", 3),
    ],
    ids=["at the end", "in the middle", "in an object", "bytes", "before an object"],
)
def test_raise_on_redaction_raises_in_a_stream_and_shows_nothing_of_it(items, face, audit_events):
    _items[:] = items
    _closed.clear()
    with tappass_session(raise_on_redaction=True) as session, pytest.raises(RedactionApplied) as caught:
        if face == "sync":
            list(read())
        else:

            async def main():
                from tappass.session.context import enter

                enter(session)
                await _collect()

            anyio.run(main)
    assert [r.kind for r in caught.value.redactions] == ["EMAIL"]
    assert "ann@" not in str(caught.value)
    assert caught.value.session_id == session.session_id
    assert _closed == [face]
    assert [e.status for e in audit_events(type="call.ended")] == ["failed"]


def test_bytes_that_are_no_text_are_withheld_where_policy_asks(face):
    for items in ((b"\xff\xfe\x00",), (b"fine \xc3", b"\x28"), (b"cut off \xc3",), ("half \ud800",)):
        with pytest.raises(PolicyBlockError, match="inspected") as caught:
            streamed(face, *items)
        assert caught.value.blocked_by == "opaque-result"


def test_bytes_that_are_no_text_pass_whole_where_no_policy_asks(face, tappass_plane):
    tappass_plane.policy("")
    parts = (b"text \xc3", b"\x28 more", b"\xff", b"\x00tail", b"cut \xc3")
    shown = streamed(face, *parts)
    assert b"".join(shown) == b"".join(parts)


def test_an_error_of_the_source_comes_out_after_what_was_shown(face, audit_events):
    class Own(Exception):
        pass

    def broken():
        yield "first"
        raise Own("mine")

    _items[:] = []
    shown = []
    call = tool(name="read_broken")(broken)
    with pytest.raises(Own, match="mine"):
        for item in call():
            shown.append(item)
    assert [(e.status, e.error_type) for e in audit_events(type="call.ended")] == [("failed", "Own")]


def test_a_stream_takes_what_is_sent_while_text_is_held_back(tappass_plane):
    got = []

    @tool(name="read_sent")
    def talk():
        for _ in range(3):
            got.append((yield "a short piece "))

    running = talk()
    shown = [next(running)]
    with pytest.raises(StopIteration):
        for word in ("one", "two", "three", *[None] * 3):
            shown.append(running.send(word))
    assert "".join(shown) == "a short piece " * 3
    assert got == ["one", "two", "three"]


@pytest.mark.parametrize("where", ["before", "middle"])
def test_a_stream_dropped_by_garbage_collection_closes_its_source_and_settles(where, audit_events):
    _items[:] = ["x" * 3000, "y" * 3000, "z" * 3000]
    _closed.clear()
    running = read()
    if where == "middle":
        next(running)
    cycle = [running]
    cycle.append(cycle)
    del running, cycle
    gc.collect()
    assert _closed == (["sync"] if where == "middle" else [])
    assert [e.status for e in audit_events(type="call.ended")] == (["abandoned"] if where == "middle" else [])
