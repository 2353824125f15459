"""All detectors as one: keyword set first, then only those that may match."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

import msgspec

from tappass import forking
from tappass.enforcement.redaction import StreamRedactor, texts
from tappass.engine.detect import keys, personal, phone, secrets
from tappass.engine.detect.detector import CONTEXT, LOOKAHEAD, Detector, PatternDetector, anchors, cut_off
from tappass.engine.detect.folding import fold
from tappass.errors import TapPassConfigError
from tappass.wire.findings import Finding

GROUP = "tappass.detectors"
SHORTEST = 6
"""Fewer characters than any built-in match has: `a@b.co`."""
_SHORT = 512

_BUILT_IN: tuple[PatternDetector, ...] = (*personal.ALL, *phone.ALL, *secrets.ALL, *keys.ALL)
_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Detector]:
    """Return every detector by kind: the built-in ones and those of the entry points `tappass.detectors`.

    Raises:
        TapPassConfigError: a plug-in cannot be loaded, or takes a kind that exists.
    """
    known: dict[str, Detector] = {detector.kind: detector for detector in _BUILT_IN}
    for entry in importlib.metadata.entry_points(group=GROUP):
        detector = _loaded(entry)
        if detector.kind in known:
            raise TapPassConfigError(
                f"the detector plug-in `{entry.name}` ({entry.value}) finds {detector.kind}, which exists already; "
                "give it a kind of its own, or uninstall it"
            )
        known[detector.kind] = detector
    return known


def _loaded(entry: importlib.metadata.EntryPoint) -> Detector:
    try:
        made = entry.load()
        detector: Detector = made() if isinstance(made, type) else made
        sound = isinstance(detector.kind, str) and isinstance(detector.category, str) and callable(detector.find)
        sound = sound and isinstance(detector.max_length, int) and detector.max_length >= 0
    except Exception as error:
        raise TapPassConfigError(
            f"the detector plug-in `{entry.name}` ({entry.value}) cannot be loaded: {type(error).__name__}; "
            "repair or uninstall it"
        ) from error
    if not sound:
        raise TapPassConfigError(
            f"the detector plug-in `{entry.name}` ({entry.value}) lacks one of kind, category, max_length, find; "
            "see docs/detection.md"
        )
    return detector


def expand(names: Iterable[str]) -> frozenset[str]:
    """Return the kinds that these kinds and categories (`EMAIL`, `pii`) stand for.

    Raises:
        TapPassConfigError: a name is neither.
    """
    known = catalogue()
    kinds: set[str] = set()
    for name in names:
        members = {kind for kind, detector in known.items() if name in (kind, detector.category)}
        if not members:
            choices = ", ".join([*sorted({d.category for d in known.values()}), *sorted(known)])
            raise TapPassConfigError(f"no detector finds {name!r}; the kinds and categories are: {choices}")
        kinds |= members
    return frozenset(kinds)


class Detectors:
    """A choice of detectors, run together.

    Args:
        kinds: kinds or categories; None: all.

    Raises:
        TapPassConfigError: a name is unknown, or a plug-in cannot be loaded.
    """

    def __init__(self, kinds: Iterable[str] | None = None) -> None:
        known = catalogue()
        chosen = known.keys() if kinds is None else expand(kinds)
        active = [known[kind] for kind in sorted(chosen)]
        self.kinds = frozenset(chosen)
        self._own = [d for d in active if isinstance(d, PatternDetector)]
        self._others = [d for d in active if not isinstance(d, PatternDetector)]
        # One search for all short tails: a stream asks at every piece.
        self._short = [d for d in self._own if d.max_length <= _SHORT]
        self._long = [d for d in self._own if d.max_length > _SHORT]
        self._tail = "|".join(d.tail for d in self._short)
        self._match: Any = anchors(d.anchor for d in self._own).Match if self._own else lambda view: ()

    def find(self, text: str) -> list[Finding]:
        """Return the matches in a text, sorted by place; they may overlap."""
        view = fold(text)
        with forking.unforked:
            found = self._own_in(view)
        for detector in self._others:
            found += detector.find(text)
        return _sorted(found)

    def inspect(self, value: Any, root: str = "") -> tuple[Finding, ...]:
        """Return the matches in every text of a JSON-typed value, `where` beginning with `root`."""
        if self._others:
            return _placed((where, self.find(text)) for where, text in texts(value, root))
        if is_short(value):
            return ()
        with forking.unforked:
            if not self._may_match(value):
                return ()
            return _placed((where, _sorted(self._own_in(fold(text)))) for where, text in texts(value, root))

    def _own_in(self, view: bytes) -> list[Finding]:
        """Return what our own detectors find; a fork waits for that."""
        own = self._own
        return [own[i].finding(span) for i in self._match(view) or () for span in sorted(set(own[i].spans(view)))]

    def _may_match(self, value: Any) -> bool:
        """Say whether an anchor occurs anywhere, at the price of one encoding for the whole value."""
        try:
            # Escapes only touch quotes, backslashes and control characters, which no anchor holds.
            written = _encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError, UnicodeEncodeError):
            return True
        return bool(self._match(written if written.isascii() else fold(written.decode())))

    def window(self) -> int:
        """Return how many code points from a match's start on can change it; 0: there is no bound."""
        lengths = [detector.max_length for detector in (*self._own, *self._others)]
        return 0 if 0 in lengths else max(lengths, default=1) + LOOKAHEAD

    def open_at(self, text: str) -> int:
        """Return where the earliest match begins that the end of this text may have cut off, or the text's length."""
        view = fold(text)
        with forking.unforked:
            starts = [detector.open_at(view) for detector in self._long]
            if self._short:
                starts.append(cut_off(view, self._tail, max(detector.max_length for detector in self._short)))
        starts += (len(view) - detector.max_length - LOOKAHEAD for detector in self._others)
        return min(starts, default=len(view))

    def redactor(
        self, *, redact: Collection[str] | None = None, block: Collection[str] = (), require: bool = False
    ) -> StreamRedactor:
        """Return a redactor for one stream; kinds or categories to replace (None: all) and to stop at."""
        return StreamRedactor(
            self.find,
            self.window(),
            redact=redact,
            block=block,
            require=require,
            context=CONTEXT,
            open_at=self.open_at,
        )


def _sorted(found: list[Finding]) -> list[Finding]:
    found.sort(key=lambda f: (f.start, -f.end, f.kind))
    return found


def _placed(found: Iterable[tuple[str, list[Finding]]]) -> tuple[Finding, ...]:
    return tuple([msgspec.structs.replace(finding, where=where) for where, there in found for finding in there])


def is_short(value: Any) -> bool:
    """Tell whether a value is too little to hold anything the built-in detectors find, as many results are."""
    kind = type(value)
    return value is None or kind is bool or (kind is str and len(value) < SHORTEST)


def window(kinds: Iterable[str] | None = None) -> int:
    """Return how many code points a stream must hold back at most for these kinds; 0: all of it, to its end."""
    return Detectors(kinds).window()


__all__ = ["CONTEXT", "Detectors", "GROUP", "catalogue", "expand", "window"]
