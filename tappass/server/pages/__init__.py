"""Two plain pages behind a login: the session that an `audit_url` leads to, and the approvals that wait for people."""

from __future__ import annotations

from litestar import Router
from litestar.exceptions import HTTPException

from tappass.errors import TapPassConnectionError
from tappass.server.pages import approvals, login, sessions
from tappass.server.pages.failing import on_bug, on_http, on_outage, on_refused
from tappass.server.pages.negotiation import BrowsersSeePages
from tappass.server.pages.static_files import static_file
from tappass.server.pages.visiting import NotLoggedIn, Refused

__all__ = ["BrowsersSeePages", "PAGES"]

PAGES = Router(
    path="/",
    route_handlers=[*approvals.HANDLERS, *login.HANDLERS, *sessions.HANDLERS, static_file],
    exception_handlers={
        NotLoggedIn: login.not_logged_in,
        Refused: on_refused,
        TapPassConnectionError: on_outage,
        HTTPException: on_http,
        Exception: on_bug,
    },
    include_in_schema=False,
)
