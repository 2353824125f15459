"""Verify an export against a public key: offline, without a database, in one pass and flat memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import BinaryIO

import msgspec

from tappass.engine.audit.checkpoint import Checkpoint, CheckpointError, notes, parse
from tappass.engine.audit.export import FORMAT, HASH_BYTES, Content, Header
from tappass.engine.audit.keys import PublicKey
from tappass.engine.audit.leaf import UNREADABLE, decode, encode, is_canonical
from tappass.engine.audit.merkle import extend, root
from tappass.engine.audit.report import OpenDecision, Problem, Report
from tappass.errors import TapPassConfigError
from tappass.wire.events import LEAF_VERSION

MAX_PROBLEMS = 20
_PIECE = 1 << 18
_ENOUGH = 256

_sha256 = hashlib.sha256


class _Meta(
    msgspec.Struct,
    kw_only=True,
    rename=lambda name: f"_{name}",
):
    """A line that is about the log."""

    export: Header | None = None
    content: Content | None = None
    hashes: bytes = b""
    checkpoint: str = ""


_read_meta = msgspec.json.Decoder(_Meta).decode


def verify(
    export: str | os.PathLike[str] | BinaryIO,
    public_key: PublicKey | str,
    *,
    checkpoints: Iterable[str | os.PathLike[str]] = (),
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Read an export once and report what it proves.

    Args:
        export: the file, or an open binary one.
        public_key: the key the log is signed with, obtained from elsewhere than the export.
        checkpoints: files of signed checkpoints held where the writer of the log cannot write.
        progress: called now and then with the number of bytes read.

    Raises:
        TapPassConfigError: a file cannot be read, or the public key or a checkpoint is not one.
    """
    key = public_key if isinstance(public_key, PublicKey) else PublicKey.parse(public_key)
    supplied = [each for path in checkpoints for each in _supplied(path, key)]
    reading = _Reading(key, supplied)
    if isinstance(export, str | os.PathLike):
        try:
            with open(export, "rb") as file:
                reading.all(file, progress)
        except OSError as error:
            raise TapPassConfigError(f"cannot read the export {os.fspath(export)} ({error.strerror})") from error
    else:
        reading.all(export, progress)
    return reading.report()


def _supplied(path: str | os.PathLike[str], key: PublicKey) -> list[Checkpoint]:
    try:
        with open(path, encoding="utf-8") as file:
            return [parse(note, key) for note in notes(file.read())]
    except (OSError, UnicodeDecodeError, CheckpointError) as error:
        raise TapPassConfigError(f"cannot use the checkpoint in {os.fspath(path)}: {error}") from error


class _Reading:
    """One pass over one export: what was seen so far, and nothing that grows with it but open decisions."""

    def __init__(self, key: PublicKey, supplied: list[Checkpoint]) -> None:
        self.key = key
        self.log_id = key.name.removeprefix("tappass-")
        self.supplied = supplied
        self.supplied_sizes = {each.size for each in supplied}
        self.header: Header | None = None
        self.problems: list[Problem] = []
        self.size = self.expected = self.epoch = 0
        self.frontier = b""
        self.signed_to = self.witnessed_to = 0
        self.fresh: list[bytes] = []
        self.unnamed: list[bytes] = []
        self.digest: str | None = None
        self.open: dict[str, tuple[int, str]] = {}

    def all(self, file: BinaryIO, progress: Callable[[int], None] | None) -> None:
        """Read every line."""
        done, rest = 0, b""
        # Pieces, not lines: cutting them up at once is a tenth faster than asking for each line.
        while piece := file.read(_PIECE):
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            self.take(lines)
            done += len(piece)
            if progress is not None:
                progress(done)
        self.take([rest] if rest else [])
        self.fold()
        self.end()

    def take(self, lines: list[bytes]) -> None:
        """Take some lines, without their ends."""
        supplied, leaf, fresh = self.supplied_sizes, self.leaf, self.fresh
        for line in lines:
            if line[:3] == b'{"_':
                self.meta(line)
                continue
            leaf(line)
            fresh.append(_sha256(b"\0" + line).digest())
            if supplied and self.size + len(fresh) in supplied:
                self.fold()

    def fold(self) -> None:
        """Take the leaves read since into the tree."""
        fresh = self.fresh
        self.frontier = extend(self.size, self.frontier, fresh)
        self.size += len(fresh)
        self.unnamed += fresh
        fresh.clear()
        if self.size in self.supplied_sizes:
            self.witness()

    def leaf(self, line: bytes) -> None:
        """Take the next leaf."""
        try:
            leaf = decode(line)
        except UNREADABLE:
            self.wrong("it is not a leaf")
            self.expected += 1
            return
        if encode(leaf) != line and not is_canonical(line):
            self.wrong("its bytes are not canonical JSON")
        seq = leaf.seq
        if seq != self.expected:
            self.misplaced(seq)
        if leaf.v != LEAF_VERSION or leaf.log_id != self.log_id or leaf.epoch < self.epoch:
            self.wrong(f"it is of version {leaf.v}, log {leaf.log_id}, epoch {leaf.epoch}: not of this log")
        self.epoch, self.digest = leaf.epoch, leaf.content
        kind = leaf.type
        if kind == "call.decided" and leaf.outcome == "allow":
            if leaf.task_id in self.open:
                self.wrong(f"{leaf.task_id} was already decided")
            self.open[leaf.task_id] = (seq, leaf.session_id)
        elif kind == "call.ended" and self.open.pop(leaf.task_id, None) is None:
            self.wrong(f"an ending of {leaf.task_id} without an open decision to run it")
        self.expected = seq + 1

    def wrong(self, what: str, seq: int | None = None, last: int | None = None) -> None:
        """Note a problem, of the leaf at hand unless a place is given."""
        seq = self.expected if seq is None else seq
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(seq=seq, what=what, last_seq=seq if last is None else last))

    def misplaced(self, seq: int) -> None:
        """Note a gap, a repetition or a change of order."""
        if seq > self.expected:
            self.wrong(f"missing here; event {seq} follows instead", last=seq - 1)
        else:
            self.wrong(f"event {seq} stands here, out of order or a second time", seq=min(seq, self.expected))

    def meta(self, line: bytes) -> None:
        """Take a line that is about the log."""
        if len(self.fresh) >= _ENOUGH or not line.startswith(b'{"_content"'):
            self.fold()
        try:
            meta = _read_meta(line)
        except UNREADABLE:
            return self.wrong("a line about the log cannot be read")
        if meta.export is not None:
            self.head(meta.export)
        if meta.content is not None:
            self.content(meta.content)
        if meta.hashes:
            self.compare(meta.hashes)
        if meta.checkpoint:
            self.checkpoint(meta.checkpoint)
        return None

    def head(self, header: Header) -> None:
        """Take the first line."""
        if header.format != FORMAT:
            raise TapPassConfigError(f"the export has format {header.format}, this tappass reads {FORMAT}; update it")
        if self.header is not None or self.size:
            self.wrong("a second log begins here")
        self.header = header

    def content(self, content: Content) -> None:
        """Compare the content of the leaf just read."""
        if content.seq != self.expected - 1:
            self.wrong(f"the content of event {content.seq} stands elsewhere", seq=content.seq)
        elif _sha256(content.salt + content.body).hexdigest() != self.digest:
            self.wrong("its content is not what was recorded", seq=content.seq)

    def compare(self, hashes: bytes) -> None:
        """Find the leaf that differs from what was hashed when it was written."""
        if b"".join([digest[:HASH_BYTES] for digest in self.unnamed]) == hashes:
            self.unnamed.clear()
            return
        written = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
        for number, pair in enumerate(zip_longest(self.unnamed, written, fillvalue=b"")):
            if not pair[1] or not pair[0].startswith(pair[1]):
                what = "it was changed after it was written" if all(pair) else "it is missing, or was put in"
                self.wrong(what, seq=self.size - len(self.unnamed) + number)
                break
        self.unnamed.clear()

    def checkpoint(self, note: str) -> None:
        """Compare a checkpoint in the export with the leaves above it."""
        try:
            signed = parse(note, self.key)
        except CheckpointError as error:
            return self.wrong(f"the checkpoint after them does not hold: {error}", *self.stretch())
        if signed.size != self.size:
            return self.changed(f"are {self.size - self.signed_to} where the log's own checkpoint counts others")
        if signed.root != root(self.frontier):
            return self.changed("differ from what the log's own checkpoint says of them")
        self.signed_to = self.size
        return None

    def witness(self) -> None:
        """Compare the checkpoints from elsewhere that are over exactly the leaves read so far."""
        for each in self.supplied:
            if each.size == self.size and each.root != root(self.frontier):
                return self.changed("are not those of the checkpoint from elsewhere: a fork, or a rewrite")
        self.witnessed_to = self.size
        return None

    def changed(self, what: str) -> None:
        """Note that a root differs, unless it is known which leaf makes it differ."""
        if not self.problems:
            self.wrong(what, *self.stretch())

    def stretch(self) -> tuple[int, int]:
        """Return the first and last leaf that no earlier checkpoint vouches for."""
        first = max(self.signed_to, self.witnessed_to)
        return first, max(first, self.size - 1)

    def end(self) -> None:
        """Take the end of the file."""
        newest = max(self.supplied_sizes, default=0)
        if newest > self.size:
            self.wrong("cut off: a checkpoint from elsewhere covers them", self.size, newest - 1)
        elif self.header is None:
            self.wrong("the export has no first line", 0)
        elif self.header.size > self.size:
            self.wrong("cut off: the first line of the export counts them", self.size, self.header.size - 1)
        elif self.signed_to < self.size and not self.problems:
            self.wrong("they stand under no checkpoint", self.signed_to, self.size - 1)

    def report(self) -> Report:
        """Return what was found, the lowest sequence number first."""
        unsettled: dict[str, list[OpenDecision]] = {}
        for task_id, (seq, session_id) in self.open.items():
            unsettled.setdefault(session_id, []).append(OpenDecision(seq=seq, task_id=task_id))
        return Report(
            log_id=self.log_id,
            events=self.size,
            problems=tuple(sorted(self.problems, key=lambda problem: problem.seq)),
            signed_to=self.signed_to,
            witnessed_to=self.witnessed_to if self.supplied else None,
            open=unsettled,
        )
