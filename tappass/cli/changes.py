"""What accepting a policy would change: rule by rule, setting by setting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from rich.text import Text

from tappass.cli.console import inline, shown

if TYPE_CHECKING:
    from tappass.engine.policy.document import Document
    from tappass.engine.settings import Settings

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
_SIGNS = {ADDED: ("+", "green"), REMOVED: ("-", "red"), CHANGED: ("~", "yellow")}
_UNSAID: tuple[Any, ...] = (None, "", [], {})
# What names a thing, and where it stands, is no part of what it says.
_NOT_SAID = ("id", "source", "category", "place", "scope", "measure", "built_in")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that differs; `what` names it (`rule mail-stays-inside`), `old` and `new` are None where it is not."""

    what: str
    kind: str
    old: Any = None
    new: Any = None


def changes(old: tuple[Document, Settings] | None, new: tuple[Document, Settings]) -> list[Change]:
    """Return what differs between two versions; without an old one everything is new."""
    before = {} if old is None else _named(*old)
    return list(differing(before, _named(*new)))


def _named(document: Document, settings: Settings) -> dict[str, Any]:
    named: dict[str, Any] = {"default": document.default}
    if document.allow_observe:
        named["allow_observe"] = True
    named |= {f"rule {rule.id}": _said(rule) for rule in document.rules}
    named |= {setting.id: setting.action for setting in document.detect}
    named |= {f"budget {budget.scope}.{budget.measure}": budget.limit for budget in document.budgets}
    for name, value in msgspec.json.decode(settings.bundle).items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        named |= {f"setting {name}.{key}".rstrip("."): each for key, each in inner}
    return named


def _said(rule: msgspec.Struct) -> dict[str, Any]:
    return {key: value for key, value in msgspec.to_builtins(rule).items() if key not in _NOT_SAID}


def differing(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """Yield what differs between two things that are named part by part."""
    for what in dict.fromkeys([*old, *new]):
        before, after = old.get(what), new.get(what)
        if before != after and (before not in _UNSAID or after not in _UNSAID):
            kind = ADDED if what not in old else REMOVED if what not in new else CHANGED
            yield Change(what=what, kind=kind, old=before, new=after)


def lines(changed: list[Change]) -> Iterator[Text]:
    """Yield the lines of a diff as a person reads it."""
    for change in changed:
        sign, style = _SIGNS[change.kind]
        yield Text(f"{sign} {shown(change.what)}", style=f"bold {style}")
        for name, value, mark, colour in _details(change):
            label = f"{shown(name)}: " if name else ""
            yield Text(f"    {mark} {label}{inline(value)}", style=colour)


def _details(change: Change) -> Iterator[tuple[str, Any, str, str]]:
    old = change.old if isinstance(change.old, dict) else {"": change.old}
    new = change.new if isinstance(change.new, dict) else {"": change.new}
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if before not in _UNSAID:
            yield name, before, "-", "red"
        if after not in _UNSAID:
            yield name, after, "+", "green"
