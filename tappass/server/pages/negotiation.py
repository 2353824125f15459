"""One address, two readers: a session's address answers programs with JSON and browsers with its page."""

from __future__ import annotations

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send


class BrowsersSeePages:
    """Leads a browser that follows an `audit_url` to the page; whoever shows a key is a program, and gets JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == ScopeType.HTTP and scope["method"] == "GET" and _has_two_readers(scope["path"]):
            headers = dict(scope["headers"])
            if b"authorization" not in headers and b"text/html" in headers.get(b"accept", b""):
                scope["path"] = f"/pages{scope['path']}"
        await self._app(scope, receive, send)


def _has_two_readers(path: str) -> bool:
    return path == "/" or path.startswith("/sessions/")
