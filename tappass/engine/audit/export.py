"""A whole log as JSON lines, written as it is read: what an outsider verifies without the database.

One JSON object a line. Lines whose first key begins with `_` are about the log; every other line is a leaf, the
bytes as they were stored and hashed:

    {"_export":{…}}         first: format, log, how many leaves follow, the public key (to be compared, not trusted)
    {…"seq":0…}             a leaf
    {"_content":{…}}        its content, if asked for and still stored: seq, salt and body in base64
    {"_hashes":"…"}         the first 8 bytes of the hashes of the leaves since the last such line, base64
    {"_checkpoint":"…"}     a signed note over all leaves above it

Only whole logs are exported: what is left out of a filtered one could not be told from what was removed.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import BinaryIO

import msgspec

from tappass.engine.audit.checkpoint import Checkpointer, origin
from tappass.engine.audit.keys import LogKey
from tappass.engine.store.port import Store
from tappass.engine.store.reading import DEFAULT_ORG, LogHead
from tappass.errors import TapPassConfigError
from tappass.wire.codec import canonical
from tappass.wire.ids import SYSTEM_CLOCK, Clock, rfc3339

FORMAT = 1
HASHES_PER_LINE = 256
HASH_BYTES = 8

_SIGNED = "SELECT size, note FROM checkpoint WHERE log_no = ? AND size > ? AND size <= ?"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of an export."""

    format: int
    log_id: str
    org_id: str
    size: int
    key: str
    exported_at: str


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What was said in one event; `salt` and `body` are base64 in the file."""

    seq: int
    salt: bytes
    body: bytes


def export(
    store: Store,
    out: BinaryIO,
    key: LogKey,
    *,
    org_id: str = DEFAULT_ORG,
    content: bool = False,
    checkpointer: Checkpointer | None = None,
    clock: Clock = SYSTEM_CLOCK,
    progress: Callable[[int], None] | None = None,
) -> Header:
    """Write an organisation's whole log, up to a checkpoint that is signed for it now.

    Args:
        store: where the log is.
        out: where to write; never held in memory.
        key: signs the last checkpoint.
        org_id: whose log.
        content: include the contents that are still stored.
        checkpointer: who signs, if its witness is to see the checkpoint.
        clock: when it is exported.
        progress: called now and then with the number of leaves written.

    Raises:
        TapPassConfigError: that organisation has no log yet.
        TapPassConnectionError: the database cannot be read, or the checkpoint not written.
    """
    store.flush()
    head = store.read.head(org_id)
    if head is None:
        raise TapPassConfigError(f"there is no log of {org_id} in {store.path} yet; nothing was exported")
    (checkpointer or Checkpointer(store, key, clock=clock)).write(head)
    header = Header(
        format=FORMAT,
        log_id=head.log_id,
        org_id=org_id,
        size=head.size,
        key=str(key.public(origin(head.log_id))),
        exported_at=rfc3339(clock.time_ns()),
    )
    out.write(_line("_export", header))
    for written, line in enumerate(_lines(store, head, content=content)):
        out.write(line)
        if progress and written % HASHES_PER_LINE == 0:
            progress(written)
    return header


def _line(name: str, value: object) -> bytes:
    return canonical({name: value}) + b"\n"


def _lines(store: Store, head: LogHead, *, content: bool) -> Iterator[bytes]:
    for start in range(0, max(head.size, 1), HASHES_PER_LINE):
        stop = min(start + HASHES_PER_LINE, head.size)
        signed: dict[int, str] = dict(store.read.query(_SIGNED, (head.log_no, start, stop)))
        for begin, end in pairwise([start, *sorted({*signed, stop})]):
            yield from _stretch(store, head, begin, end, content=content)
            if end in signed:
                yield _line("_checkpoint", signed[end])


def _stretch(store: Store, head: LogHead, start: int, end: int, *, content: bool) -> Iterator[bytes]:
    contents = store.read.contents(org_id=head.org_id, start=start, end=end) if content else {}
    hashes = []
    for seq, leaf, digest in store.read.leaves(org_id=head.org_id, start=start, end=end):
        yield leaf + b"\n"
        hashes.append(digest[:HASH_BYTES])
        if seq in contents:
            salt, body = contents[seq]
            yield _line("_content", Content(seq=seq, salt=salt, body=body))
    yield _line("_hashes", base64.b64encode(b"".join(hashes)).decode())
