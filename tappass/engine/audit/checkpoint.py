"""Signed statements of how long a log is and what its root was (C2SP tlog-checkpoint over signed-note).

tappass-log_0193…
42
<base64 of the root>

— tappass-log_0193… <base64 of key id and signature>
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tappass.engine.audit.keys import LogKey, PublicKey
from tappass.engine.audit.merkle import root
from tappass.engine.store.port import Store, Tx
from tappass.engine.store.reading import LogHead
from tappass.errors import TapPassConnectionError
from tappass.wire.ids import SYSTEM_CLOCK, Clock, rfc3339

_SIGNATURE = "\u2014 "
_LAST = "SELECT note FROM checkpoint WHERE log_no = ? AND size = ?"
_INSERT = "INSERT INTO checkpoint (log_no, size, note, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A log's size and root hash; `origin` names the log."""

    origin: str
    size: int
    root: bytes

    def body(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


class CheckpointError(ValueError):
    """A note is not a checkpoint of that log signed by that key; the message says how."""


def origin(log_id: str) -> str:
    """Return the name under which a log signs."""
    return f"tappass-{log_id}"


def sign(checkpoint: Checkpoint, key: LogKey) -> str:
    """Return the signed note."""
    body = checkpoint.body()
    signature = key.public(checkpoint.origin).key_id + key.sign(body.encode())
    return f"{body}\n{_SIGNATURE}{checkpoint.origin} {base64.b64encode(signature).decode()}\n"


def parse(note: str, key: PublicKey) -> Checkpoint:
    """Read a signed note; signatures by other keys are passed over, as the format asks.

    Raises:
        CheckpointError: it is malformed, of another log, or not signed by the key.
    """
    body, gap, signatures = note.partition("\n\n")
    body += "\n"
    lines = body.split("\n")
    if not gap or len(lines) < 4 or not lines[1].isdecimal() or lines[1] != str(int(lines[1])):
        raise CheckpointError("it is not a signed checkpoint")
    if lines[0] != key.name:
        raise CheckpointError(f"it is a checkpoint of {lines[0]}, not of {key.name}")
    for line in signatures.splitlines():
        if line.startswith(f"{_SIGNATURE}{key.name} ") and _signed(body, line.rpartition(" ")[2], key):
            try:
                return Checkpoint(origin=lines[0], size=int(lines[1]), root=base64.b64decode(lines[2], validate=True))
            except binascii.Error as error:
                raise CheckpointError("its root is not base64") from error
    raise CheckpointError("it is not signed by the key given")


def _signed(body: str, encoded: str, key: PublicKey) -> bool:
    try:
        raw = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return False
    return raw[:4] == key.key_id and key.verify(body.encode(), raw[4:])


def notes(text: str) -> Iterator[str]:
    """Yield the notes of a witness file, where one stands after the other."""
    note: list[str] = []
    signed = False
    for line in text.splitlines(keepends=True):
        if signed and not line.startswith(_SIGNATURE):
            yield "".join(note)
            note, signed = [], False
        note.append(line)
        signed = signed or line.startswith(_SIGNATURE)
    if "".join(note).strip():
        yield "".join(note)


class Checkpointer:
    """Signs where the logs of a store stand: on a schedule, when it closes, and when asked.

    Args:
        store: whose logs.
        key: signs them.
        witness: a file that every note is appended to; it proves something only if it lies where the writer of the
            log cannot write.
        clock: when a note was made.
    """

    def __init__(
        self,
        store: Store,
        key: LogKey,
        *,
        witness: str | os.PathLike[str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._store, self._key, self._clock = store, key, clock
        self._witness = Path(witness) if witness else None

    def attach(self, every_s: float | None = None) -> None:
        """Sign whenever the store closes, and every so many seconds if given."""
        self._store.before_close(self.write_all)
        if every_s:
            self._store.every(every_s, self.write_all)

    def write_all(self) -> None:
        """Sign where every log stands.

        Raises:
            TapPassConnectionError: the database or the witness cannot be written.
        """
        for head in self._store.read.heads():
            self.write(head)

    def write(self, head: LogHead) -> str:
        """Sign where one log stands, unless that was done; return the note.

        Raises:
            TapPassConnectionError: the database or the witness cannot be written.
        """
        known = self._store.read.row(_LAST, (head.log_no, head.size))
        if known is not None:
            return str(known[0])
        # What is signed must not be lost with the power: the signature would then accuse the log of a cut.
        self._store.sync()
        note = sign(Checkpoint(origin=origin(head.log_id), size=head.size, root=root(head.frontier)), self._key)
        at = rfc3339(self._clock.time_ns())

        def insert(tx: Tx) -> None:
            tx.execute(_INSERT, (head.log_no, head.size, note, at))

        self._show(note)
        self._store.run(insert)
        return note

    def _show(self, note: str) -> None:
        if self._witness is None:
            return
        try:
            with self._witness.open("a", encoding="utf-8") as file:
                file.write(note)
        except OSError as error:
            raise TapPassConnectionError(
                f"cannot append the checkpoint to the witness {self._witness} ({error.strerror})"
            ) from error


def public_key(store: Store, key: LogKey, org_id: str) -> PublicKey | None:
    """Return the key that verifies an organisation's log; None before its first event."""
    head = store.read.head(org_id)
    return key.public(origin(head.log_id)) if head else None
