"""A streamed result as its scanner reads it: text and bytes piece by piece, other items whole."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tappass.enforcement.action import Call
from tappass.enforcement.showing import released, show
from tappass.enforcement.verdicts import redacted, withheld
from tappass.errors import PolicyBlockError
from tappass.wire.decisions import Decision
from tappass.wire.endings import Settlement

if TYPE_CHECKING:
    from tappass.enforcement.port import Scanner

_decoder = codecs.getincrementaldecoder("utf-8")


class Reading:
    """What may be seen of a stream, item by item; what is held back goes out before an item of another kind."""

    def __init__(self, call: Call, decision: Decision, scanner: Scanner) -> None:
        self._call = call
        self._decision = decision
        self._scanner = scanner
        self._kind: type | None = None
        self._bytes = _decoder()

    def take(self, item: Any) -> list[Any]:
        """Return what may be seen after this item; the last one stands for it.

        Raises:
            PolicyBlockError: the stream holds something that must not be shown.
            RedactionApplied: the caller asked for an error rather than a redacted value.
        """
        kind = str if isinstance(item, str) else bytes if isinstance(item, bytes | bytearray) else None
        before = self.rest() if kind is not self._kind else []
        self._kind = kind
        if kind is bytes:
            return before + self._of_bytes(bytes(item))
        if kind is str and (text := _unicode(str.__str__(item))) is not None:
            return [*before, self._checked(lambda: self._scanner.feed(text))]
        return [*before, *self.rest(), self._whole(item)]

    def rest(self) -> list[Any]:
        """Return what is held back, redacted."""
        if self._kind is None:
            return []
        text = self._checked(self._scanner.finish)
        if self._kind is str:
            return [text] if text else []
        cut_off, self._bytes = self._bytes.getstate()[0], _decoder()
        return [part for part in (text.encode(), self._whole(cut_off) if cut_off else b"") if part]

    def _of_bytes(self, piece: bytes) -> list[Any]:
        cut_off = self._bytes.getstate()[0]
        try:
            text = self._bytes.decode(piece)
        except UnicodeDecodeError:
            self._bytes = _decoder()
            return [*self.rest(), self._whole(cut_off + piece)]
        return [self._checked(lambda: self._scanner.feed(text)).encode()]

    def _whole(self, item: Any) -> Any:
        shown, opaque = show(item)
        return released(self._call, self._decision, self._scanner.inspect(shown, opaque=opaque), item)

    def _checked(self, read: Callable[[], str]) -> str:
        name, ids = self._call.action.name, self._decision.correlation
        try:
            text = read()
        except PolicyBlockError as error:
            refused = Settlement(withheld_by=error.blocked_by, reason=error.reason)
            raise withheld(refused, name, ids) from None
        if self._call.raise_on_redaction and self._scanner.redactions:
            raise redacted(self._scanner.redactions, text, name, ids, ran=True)
        return text


def _unicode(text: str) -> str | None:
    """Return the text, None if it holds half a surrogate pair, so that nothing can read it."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text
