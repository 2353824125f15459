"""A streamed result as its scanner reads it: text and bytes piece by piece, other items whole."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tappass.enforcement.action import Call
from tappass.enforcement.showing import released, show
from tappass.enforcement.verdicts import redacted, withheld
from tappass.errors import PolicyBlockError
from tappass.wire.decisions import Decision
from tappass.wire.endings import Settlement
from tappass.wire.findings import Redaction

if TYPE_CHECKING:
    from tappass.enforcement.port import Scanner

_decoder = codecs.getincrementaldecoder("utf-8")


class _Piece:
    """A piece of the stream of which not everything is shown; `begun` if something already stood for it."""

    __slots__ = ("begun", "start", "text")

    def __init__(self, start: int, text: str, *, begun: bool = False) -> None:
        self.start, self.text, self.begun = start, text, begun

    @property
    def end(self) -> int:
        return self.start + len(self.text)


class Reading:
    """What may be seen of a stream, item by item, each as itself: late rather than joined with its neighbours.

    A mask stands in the item where its match starts; the rest of the match is gone from the items after it. What is
    held back goes out before an item of another kind.
    """

    def __init__(self, call: Call, decision: Decision, scanner: Scanner) -> None:
        self._call = call
        self._decision = decision
        self._scanner = scanner
        self._kind: type | None = None
        self._bytes = _decoder()
        # Positions count code points from the stream's start, as the scanner's do.
        self._pieces: deque[_Piece] = deque()
        self._end = 0
        self._spans: list[Redaction] = []
        self._known = 0

    @property
    def holds(self) -> bool:
        """Whether something of the last item is held back."""
        return bool(self._pieces)

    def take(self, item: Any) -> list[Any]:
        """Return the items that may be seen now that this one has come.

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
            return before + self._of_text(text)
        return [*before, *self.rest(), self._whole(item)]

    def so_far(self) -> Any:
        """Return in one what may be seen of the items held back; what is left of them joins the next."""
        shown = self._scanner.shown
        ends = [max(piece.start, min(shown, piece.end)) for piece in self._pieces]
        text = "".join(self._text(piece, end) for piece, end in zip(self._pieces, ends, strict=True))
        left = "".join(piece.text[end - piece.start :] for piece, end in zip(self._pieces, ends, strict=True))
        self._pieces = deque([_Piece(shown, left, begun=True)])
        return self._typed(text)

    def rest(self) -> list[Any]:
        """Return the items held back, redacted."""
        if self._kind is None:
            return []
        self._checked(self._scanner.finish)
        items = self._complete()
        if self._kind is bytes and (cut_off := self._bytes.getstate()[0]):
            self._bytes = _decoder()
            items.append(self._whole(cut_off))
        return items

    def _of_bytes(self, piece: bytes) -> list[Any]:
        cut_off = self._bytes.getstate()[0]
        try:
            text = self._bytes.decode(piece)
        except UnicodeDecodeError:
            self._bytes = _decoder()
            return [*self.rest(), self._whole(cut_off + piece)]
        return self._of_text(text)

    def _of_text(self, text: str) -> list[Any]:
        if self._pieces and (last := self._pieces[-1]).begun:
            last.text, last.begun = last.text + text, False
        else:
            self._pieces.append(_Piece(self._end, text))
        self._end += len(text)
        self._checked(lambda: self._scanner.feed(text))
        return self._complete()

    def _complete(self) -> list[Any]:
        """Return the items that are shown whole."""
        self._spans += self._scanner.redactions[self._known :]
        self._known = len(self._scanner.redactions)
        items = []
        while self._pieces and self._pieces[0].end <= self._scanner.shown:
            piece = self._pieces.popleft()
            items.append(self._typed(self._text(piece, piece.end)))
        start = self._pieces[0].start if self._pieces else self._end
        self._spans = [span for span in self._spans if span.end > start]
        return items

    def _text(self, piece: _Piece, end: int) -> str:
        """Return a piece's own text up to a position, redacted."""
        parts, at = [], piece.start
        for span in self._spans:
            if span.end > at and span.start < end:
                parts.append(piece.text[at - piece.start : max(span.start, at) - piece.start])
                parts.append(span.replacement if span.start >= piece.start else "")
                at = min(span.end, end)
        return "".join((*parts, piece.text[at - piece.start : end - piece.start]))

    def _typed(self, text: str) -> Any:
        return text.encode() if self._kind is bytes else text

    def _whole(self, item: Any) -> Any:
        shown, opaque = show(item)
        settlement = self._scanner.inspect(shown, opaque=opaque)
        self._known += len(settlement.redactions)  # these have their place in the item, not in the text
        return released(self._call, self._decision, settlement, item)

    def _checked(self, read: Callable[[], str]) -> None:
        name, ids = self._call.action.name, self._decision.correlation
        try:
            text = read()
        except PolicyBlockError as error:
            refused = Settlement(withheld_by=error.blocked_by, reason=error.reason)
            raise withheld(refused, name, ids) from None
        if self._call.raise_on_redaction and self._scanner.redactions:
            raise redacted(self._scanner.redactions, text, name, ids, ran=True)


def _unicode(text: str) -> str | None:
    """Return the text, None if it holds half a surrogate pair, so that nothing can read it."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text
