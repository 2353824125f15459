"""Which session a call belongs to: the active one, or its plane's implicit one."""

from __future__ import annotations

from typing import Protocol

from tappass.plane.connect import connect
from tappass.session.context import current_session
from tappass.session.registry import registry
from tappass.session.session import Session


class Placed(Protocol):
    """What may insist on a plane of its own."""

    @property
    def url(self) -> str | None:
        """The plane's url, None for the active session's."""
        ...

    @property
    def api_key(self) -> str | None:
        """The key for that plane."""
        ...


class _Anywhere:
    url = None
    api_key = None


# Insists on no plane.
ANYWHERE = _Anywhere()


def place(what: Placed) -> Session:
    """Return the session for a call."""
    active = current_session()
    if what.url is None and what.api_key is None:
        return active or registry.implicit(connect())
    plane = connect(what.url, what.api_key)
    return active if active is not None and active.plane is plane else registry.implicit(plane)


async def aplace(what: Placed) -> Session:
    """Return the session for a call; opening the implicit one leaves the event loop free."""
    active = current_session()
    if active is not None and what.url is None and what.api_key is None:
        return active
    import anyio.to_thread

    return await anyio.to_thread.run_sync(place, what)
