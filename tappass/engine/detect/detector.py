"""What a detector is, and the shape that the built-in ones share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

import re2  # type: ignore[import-untyped]

from tappass import forking
from tappass.engine.detect.folding import fold
from tappass.wire.findings import Finding

PII, SECRETS, INJECTION = "pii", "secrets", "injection"
CONTEXT = 128
LOOKAHEAD = 8

Span: TypeAlias = tuple[int, int, int]


class Detector(Protocol):
    """Finds one kind of thing.

    Whether there is a match follows from the `CONTEXT` characters before its start and the `max_length + LOOKAHEAD`
    from its start on, and from nothing else: streams rest on it. A `max_length` of 0 says that there is no such
    bound; a stream is then held back to its end.
    """

    @property
    def kind(self) -> str:
        """What is found, in capitals: `EMAIL`."""
        ...

    @property
    def category(self) -> str:
        """The family that a policy may name instead: pii, secrets or injection."""
        ...

    @property
    def max_length(self) -> int:
        """The longest match in code points; 0: unbounded."""
        ...

    def find(self, text: str) -> Iterable[Finding]:
        """Return the matches in a text, in any order."""
        ...


@lru_cache(maxsize=256)
def pattern(source: str) -> Any:
    """Compile a pattern over folded bytes; used where a fork waits for it, see `Detectors`."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    with forking.unforked:
        return re2.compile(source.encode("latin-1"), options)


def anchors(sources: Iterable[str]) -> Any:
    """Compile anchors into one set; its `Match` tells which of them occur in folded bytes."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    compiled = re2.Set.SearchSet(options)
    for source in sources:
        compiled.Add(source.encode("latin-1"))
    with forking.unforked:
        compiled.Compile()
    return compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternDetector:
    """A detector made of patterns over folded bytes (see `folding`), and a reader that confirms.

    Attributes:
        anchor: occurs in every text that holds a match; cheap.
        head: finds where a match may be; its matches must not depend on one another. The search goes on after the
            group `resume` where that took part, else after the whole head.
        read: returns start, end and score of the match that belongs to a head, or None.
        tail: matches from the earliest place where a match may be cut off by the end of a text.
    """

    kind: str
    category: str
    max_length: int
    anchor: str
    head: str
    read: Callable[[bytes, Any], Span | None]
    tail: str
    resume: int = 0

    def spans(self, view: bytes) -> Iterator[Span]:
        """Yield the matches in folded bytes."""
        head, at = pattern(self.head), 0
        while (match := head.search(view, at)) is not None:
            if (span := self.read(view, match)) is not None:
                yield span
            resume = match.end(self.resume)
            at = resume if resume > 0 else match.end()

    def open_at(self, view: bytes) -> int:
        """Return where the earliest match begins that the end of these bytes may have cut off."""
        return cut_off(view, self.tail, self.max_length)

    def finding(self, span: Span) -> Finding:
        """Return a match as a finding."""
        start, end, score = span
        return Finding(
            kind=self.kind, start=start, end=end, score=score, detector=f"tappass.{self.kind}", category=self.category
        )

    def find(self, text: str) -> list[Finding]:
        """Return the matches in a text."""
        return [self.finding(span) for span in self.spans(fold(text))]


def cut_off(view: bytes, tail: str, longest: int) -> int:
    """Return where a tail begins at the end of a view, but no earlier than the longest match could."""
    cut = pattern(rf"(?:{tail})\z").search(view)
    start = len(view) if cut is None else int(cut.start())
    return max(start, len(view) - longest - LOOKAHEAD)


def follows_word(view: bytes, at: int) -> bool:
    """Say whether a letter or digit stands right before a place (that of a written-out line feed does not count)."""
    if at == 0 or not view[at - 1 : at].isalnum():
        return False
    return not (view[at - 1 : at] in b"nrt" and view[at - 2 : at - 1] == b"\\")


def touches_digit(view: bytes, start: int, end: int) -> bool:
    """Say whether a number goes on beyond a span: a letter or digit on either side, or a decimal point and digits."""
    if follows_word(view, start) or view[end : end + 1].isalnum():
        return True
    return start > 1 and view[start - 1 : start] == b"." and view[start - 2 : start - 1].isdigit()


def near(view: bytes, start: int, words: str, reach: int = 48) -> bool:
    """Say whether one of these words stands before a place, at most `reach` code points away."""
    return pattern(rf"(?i)(?:^|[^a-z])(?:{words})").search(view[max(0, start - reach) : start]) is not None
