"""Which tools this process offers under which name: two tools of one name are told apart by nobody.

A scope is what one agent sees: the sessions of one outermost session, or, outside any, the process.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from tappass.ext import Session, current_session, is_claimed, outermost

# The guards' own sessions are no scopes: two guards that are entered one inside the other serve one agent.
_of_guards: dict[str, str] = {}
_offers: dict[str, dict[int, tuple[str, frozenset[str]]]] = {}


def folded(name: str) -> str:
    """Return a name as one that is mistaken for it folds too: full-width forms, upper case and hyphens aside."""
    return unicodedata.normalize("NFKC", name).casefold().replace("-", "_")


def scope_around() -> str:
    """Return the scope that a guard belongs to which is entered here and now."""
    active = current_session()
    if active is None:
        return ""
    if (known := _of_guards.get(active.session_id)) is not None:
        return known
    root = outermost(active)
    return _of_guards.get(root, root)


def enlist(session: Session, scope: str) -> None:
    """Note that a session is a guard's, and the scope that it stands in."""
    _of_guards[session.session_id] = scope


def offer(scope: str, owner: int, server: str, names: Iterable[str]) -> None:
    """Note what a connection offers now."""
    _offers.setdefault(scope, {})[owner] = (server, frozenset(map(folded, names)))


def withdraw(scope: str, owner: int, session: Session) -> None:
    """Forget a connection that has ended."""
    _of_guards.pop(session.session_id, None)
    if (offers := _offers.get(scope)) is not None:
        offers.pop(owner, None)
        if not offers:
            _offers.pop(scope, None)


def shadowed(scope: str, server: str, name: str) -> bool:
    """Tell whether another server of that scope offers a tool of that name, or a governed function goes by it."""
    known = folded(name)
    others = tuple(_offers.get(scope, {}).values())
    return is_claimed(name) or any(other != server and known in names for other, names in others)
