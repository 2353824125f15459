"""Replacing what was found: in a text, in a JSON-typed value, in a stream (`StreamRedactor`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import msgspec

from tappass.enforcement.projection import escape
from tappass.errors import PolicyBlockError, TapPassConfigError
from tappass.wire.endings import Settlement
from tappass.wire.findings import Finding, Redaction

KEY = "~key"
CONTEXT = 128


def texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in a JSON-typed value with its JSON pointer, in the order it is written.

    Strings as they are, numbers as their decimal text (a card number may be an int), keys at their pointer
    plus `~key`. Booleans, null and what is not JSON hold no text.
    """
    stack: list[tuple[str, Any]] = [(where, value)]
    while stack:
        at, item = stack.pop()
        if isinstance(item, str):
            yield at, item
        elif isinstance(item, dict):
            for key, inner in reversed(item.items()):
                if isinstance(key, str):
                    below = f"{at}/{escape(key)}"
                    stack += (below, inner), (below + KEY, key)
        elif isinstance(item, list | tuple):
            stack.extend((f"{at}/{i}", item[i]) for i in range(len(item) - 1, -1, -1))
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield at, _decimal(item)


def _decimal(number: float) -> str:
    try:
        return str(number)
    except ValueError as error:
        raise TapPassConfigError(
            "an integer is too long to be written in decimal, so its value could not be inspected; pass it as text"
        ) from error


class _Span:
    """A run of overlapping matches: their union, named after the longest of them."""

    __slots__ = ("end", "kind", "length", "replacement", "start")

    def __init__(self, kind: str, start: int, end: int, replacement: str) -> None:
        self.kind, self.start, self.end, self.replacement = kind, start, end, replacement
        self.length = end - start

    def joined(self, kind: str, start: int, end: int, replacement: str) -> bool:
        """Take a match that starts no earlier, if it overlaps; say whether it did."""
        if start >= self.end:
            return False
        if end - start > self.length:
            self.kind, self.length, self.replacement = kind, end - start, replacement
        self.end = max(self.end, end)
        return True

    def redaction(self, where: str = "") -> Redaction:
        return Redaction(kind=self.kind, start=self.start, end=self.end, replacement=self.replacement, where=where)


def _order(match: Finding | Redaction) -> tuple[int, int, str]:
    return match.start, -match.end, match.kind


def _by_place(matches: Iterable[Finding | Redaction]) -> dict[str, list[Finding | Redaction]]:
    places: dict[str, list[Finding | Redaction]] = {}
    for match in matches:
        places.setdefault(match.where, []).append(match)
    return places


def _spans(matches: Iterable[Finding | Redaction]) -> list[_Span]:
    spans: list[_Span] = []
    for match in sorted(matches, key=_order):
        put = match.replacement if isinstance(match, Redaction) else f"[{match.kind}]"
        if not spans or not spans[-1].joined(match.kind, match.start, match.end, put):
            spans.append(_Span(match.kind, match.start, match.end, put))
    return spans


def merge(findings: Iterable[Finding]) -> tuple[Redaction, ...]:
    """Return what to replace: overlapping findings at one place become one, under the kind of the longest."""
    return tuple(span.redaction(where) for where, found in _by_place(findings).items() for span in _spans(found))


def redact_text(text: str, redactions: Iterable[Redaction]) -> str:
    """Return the text with these spans replaced.

    Raises:
        TapPassConfigError: a span does not lie inside the text.
    """
    parts: list[str] = []
    shown = 0
    for span in _spans(redactions):
        if not 0 <= span.start < span.end <= len(text):
            raise TapPassConfigError(
                f"a {span.kind} redaction covers {span.start} to {span.end} of a text of {len(text)} characters, "
                "so nothing was released; inspect and redact the same value"
            )
        parts += text[shown : span.start], span.replacement
        shown = span.end
    return "".join((*parts, text[shown:]))


class _Node:
    """What is to be replaced at one place of a value, and below it."""

    __slots__ = ("below", "key", "own")

    def __init__(self) -> None:
        self.own: list[Redaction] = []
        self.key: list[Redaction] = []
        self.below: dict[str, _Node] = {}


def redact_value(value: Any, redactions: Iterable[Redaction]) -> Any:
    """Return a new value with these spans replaced; parts that hold none are shared with the original.

    Lists, tuples and dicts stay what they are. A number with a span in it becomes the replacement text. A key that
    becomes equal to another one gets `#2`, `#3`, … so that no entry is lost.

    Raises:
        TapPassConfigError: a pointer leads nowhere in this value, or a span does not lie inside its text.
    """
    root = _Node()
    for redaction in redactions:
        _plant(root, redaction)
    return _redacted(value, root, "")


def _plant(root: _Node, redaction: Redaction) -> None:
    is_key = redaction.where.endswith(KEY)
    first, *tokens = redaction.where.removesuffix(KEY).split("/")
    if first or (is_key and not tokens):
        raise _lost(redaction.where)
    node = root
    for token in tokens:
        node = node.below.setdefault(token.replace("~1", "/").replace("~0", "~"), _Node())
    (node.key if is_key else node.own).append(redaction)


def _redacted(value: Any, node: _Node, where: str) -> Any:
    if not node.below:
        return _leaf(value, node.own, where) if node.own else value
    if node.own:
        raise _lost(where)
    if type(value) is dict:
        return _mapping(value, node, where)
    if type(value) not in (list, tuple):
        raise _lost(where)
    items = list(value)
    for token, inner in node.below.items():
        if not token.isdecimal() or int(token) >= len(items) or inner.key:
            raise _lost(f"{where}/{token}")
        items[int(token)] = _redacted(items[int(token)], inner, f"{where}/{token}")
    return items if type(value) is list else tuple(items)


def _leaf(value: Any, redactions: list[Redaction], where: str) -> Any:
    if isinstance(value, str):
        return redact_text(value, redactions)
    if isinstance(value, int | float) and not isinstance(value, bool):
        redact_text(str(value), redactions)
        return _spans(redactions)[0].replacement
    raise _lost(where)


def _mapping(value: dict[Any, Any], node: _Node, where: str) -> dict[Any, Any]:
    changed = dict(value)
    for key, inner in node.below.items():
        if key not in changed:
            raise _lost(f"{where}/{escape(key)}")
        changed[key] = _redacted(changed[key], inner, f"{where}/{escape(key)}")
    if not (renamed := {key: redact_text(key, inner.key) for key, inner in node.below.items() if inner.key}):
        return changed
    taken = changed.keys() - renamed.keys()
    return {_free(renamed[key], taken) if key in renamed else key: item for key, item in changed.items()}


def _free(name: str, taken: set[Any]) -> str:
    free, n = name, 1
    while free in taken:
        free, n = f"{name}#{n + 1}", n + 1
    taken.add(free)
    return free


def _lost(where: str) -> TapPassConfigError:
    # A pointer names keys, and a key may itself be what had to be redacted: only its depth is told.
    return TapPassConfigError(
        f"a redaction points {where.count('/')} levels deep to a place that this value does not have as a text, "
        "so nothing was released; inspect and redact the same value"
    )


class StreamRedactor:
    """Redacts a text that comes in pieces; a `port.Scanner`.

    Everything it shows, put together, equals redacting the whole text, wherever it was cut. It rests on what `find`
    promises: whether a match is there follows from the `context` characters before its start and the `window`
    characters from its start on. Memory is bounded by the two (and the record of what was found); each piece costs
    time in proportion to itself and to them.

    Args:
        find: returns the matches in a text.
        window: code points from a match's start to the last one that can change it; 0: unbounded, so that
            everything is held back until `finish`.
        redact: kinds or categories to replace; None: all.
        block: kinds or categories that must not be shown at all.
        require: withhold an item that cannot be inspected.
        context: code points before a match that `find` may look at.
        open_at: returns where the first match that may still change or begin lies in an unfinished text; without
            it, the last `window` characters are always held back.
    """

    def __init__(
        self,
        find: Callable[[str], Iterable[Finding]],
        window: int,
        *,
        redact: Collection[str] | None = None,
        block: Collection[str] = (),
        require: bool = False,
        context: int = CONTEXT,
        open_at: Callable[[str], int] | None = None,
    ) -> None:
        self._find, self._window, self._open_at, self._context = find, window, open_at, context
        self._redact, self._block, self._require = redact, frozenset(block), require
        self._findings: list[Finding] = []
        self._redactions: list[Redaction] = []
        self._refused: Finding | None = None
        # Positions in the stream: where the buffer begins, up to where every match is known, up to where it is shown.
        self._buffer, self._base, self._known, self._shown = "", 0, 0, 0
        self._growing: _Span | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far; positions count from the start of the stream."""
        return tuple(self._findings)

    @property
    def redactions(self) -> tuple[Redaction, ...]:
        """What was replaced so far; positions as in `findings`."""
        return tuple(self._redactions)

    @property
    def shown(self) -> int:
        """Up to where the text is shown or replaced; positions as in `findings`."""
        return self._shown

    def feed(self, text: str) -> str:
        """Take the next piece of the stream; return what is safe to show.

        Holds back what may still grow into a match, and cuts only before a whole match.

        Raises:
            PolicyBlockError: the stream holds something that must not be shown; every later call raises it too.
        """
        self._raise_if_refused()
        self._buffer += text
        if not self._window:
            return ""
        safe = len(self._buffer) - self._window
        if self._open_at is not None and text:
            safe = max(safe, self._open_at(self._buffer))
        return self._advance(self._base + safe)

    def finish(self) -> str:
        """Return what was held back, redacted; the next text starts anew, positions count on.

        Raises:
            PolicyBlockError: the stream holds something that must not be shown.
        """
        self._raise_if_refused()
        end = self._base + len(self._buffer)
        text = self._advance(end)
        if self._growing is not None:
            text += self._close(self._growing)
        self._buffer, self._base, self._known, self._shown = "", end, end, end
        return text

    def inspect(self, value: Any, *, opaque: bool) -> Settlement:
        """Say what is to be replaced in one item that is not text, or that it is withheld."""
        if opaque and self._require:
            return Settlement(withheld_by="opaque-result", reason="an item of its stream cannot be inspected")
        found = tuple(msgspec.structs.replace(f, where=where) for where, text in texts(value) for f in self._find(text))
        self._findings += found
        if (bad := next((f for f in found if self._blocks(f)), None)) is not None:
            return Settlement(
                findings=found,
                withheld_by=_setting(bad),
                reason=f"an item of its stream is withheld: it holds {bad.kind}",
            )
        redactions = merge(f for f in found if self._replaces(f))
        self._redactions += redactions
        return Settlement(findings=found, redactions=redactions)

    def _blocks(self, finding: Finding) -> bool:
        return finding.kind in self._block or finding.category in self._block

    def _replaces(self, finding: Finding) -> bool:
        return self._redact is None or finding.kind in self._redact or finding.category in self._redact

    def _advance(self, safe: int) -> str:
        """Show up to `safe`: no match that starts before it can change or appear any more."""
        if safe <= self._known:
            return ""
        parts: list[str] = []
        for finding in sorted(self._find(self._buffer), key=_order):
            start, end = self._base + finding.start, self._base + finding.end
            if self._known <= start < safe and start < end:
                parts.append(self._take(msgspec.structs.replace(finding, start=start, end=end)))
        if self._growing is not None and self._growing.end <= safe:
            parts.append(self._close(self._growing))
        parts.append(self._text_up_to(safe if self._growing is None else self._growing.start))
        self._known = safe
        keep = max(self._base, safe - self._context)
        self._buffer, self._base = self._buffer[keep - self._base :], keep
        return "".join(parts)

    def _take(self, finding: Finding) -> str:
        self._findings.append(finding)
        if self._blocks(finding):
            self._refuse(finding)
        if not self._replaces(finding):
            return ""
        span = finding.kind, finding.start, finding.end, f"[{finding.kind}]"
        if self._growing is not None and self._growing.joined(*span):
            return ""
        shown = self._close(self._growing) if self._growing is not None else ""
        self._growing = _Span(*span)
        return shown

    def _refuse(self, finding: Finding) -> None:
        # What is held back must not outlive the refusal.
        self._buffer, self._growing, self._refused = "", None, finding
        self._raise_if_refused()

    def _raise_if_refused(self) -> None:
        if self._refused is not None:
            reason = f"its stream is withheld: it holds {self._refused.kind}"
            raise PolicyBlockError(f"the call ran, but {reason}", blocked_by=_setting(self._refused), reason=reason)

    def _close(self, span: _Span) -> str:
        text = self._text_up_to(span.start)
        self._redactions.append(span.redaction())
        self._shown, self._growing = span.end, None
        return text + span.replacement

    def _text_up_to(self, end: int) -> str:
        if end <= self._shown:
            return ""
        text = self._buffer[max(0, self._shown - self._base) : end - self._base]
        self._shown = end
        return text


def _setting(finding: Finding) -> str:
    """Return the name of the setting that withholds a result for this finding."""
    return f"detect.{finding.category}.result"
