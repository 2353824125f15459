"""The ASGI app: every route, behind the guard, with one answer for every error."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import LitestarDeprecationWarning

from tappass.server import problems
from tappass.server.auth import KINDS, authenticate, provide_house, provide_plane, provide_principal, scopes_of
from tappass.server.house import House
from tappass.server.limits import Attempts, BodyLimits
from tappass.server.logs import RequestLog
from tappass.server.openapi import described
from tappass.server.pages import PAGES, BrowsersSeePages
from tappass.server.routes import HANDLERS
from tappass.server.routes.health import metrics_route
from tappass.server.shortcut import Shortcut


def make_app(house: House, routes: Sequence[Any] | None = None) -> Litestar:
    """Return the app that serves a house.

    Args:
        house: what the routes stand on; started and stopped with the app.
        routes: instead of all of them; for tests.

    Raises:
        RuntimeError: a route does not say who may call it.
    """
    settings = house.settings().server
    with warnings.catch_warnings():
        # Parameters and dependencies go by their names, which every 2.x takes: only 3.0 will ask for a word more.
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        app = _routed(house, [*HANDLERS, *metrics_route(settings.metrics), PAGES] if routes is None else list(routes))
    _all_say_who_may_call(app)
    limited = BodyLimits(
        BrowsersSeePages(Shortcut(app.asgi_handler, house)),
        body_bytes=settings.body_bytes,
        batch_bytes=settings.batch_bytes,
        body_s=settings.body_timeout_s,
    )
    app.asgi_handler = RequestLog(limited)
    return app


def _routed(house: House, routes: list[Any]) -> Litestar:
    return Litestar(
        routes,
        dependencies={
            "house": Provide(provide_house, sync_to_thread=False),
            "principal": Provide(provide_principal, sync_to_thread=False),
            "plane": Provide(provide_plane),
        },
        guards=[authenticate],
        exception_handlers=problems.EXCEPTIONS,
        state=State({"house": house, "attempts": Attempts()}),
        lifespan=[_open(house)],
        openapi_config=described(),
        logging_config=None,
        # BodyLimits says how large a body may be, before anything is read of it.
        request_max_body_size=None,
    )


def _open(house: House) -> Callable[[Litestar], Any]:
    @asynccontextmanager
    async def opened(_: Litestar) -> AsyncIterator[None]:
        await anyio.to_thread.run_sync(house.start)
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(house.stop)

    return opened


def _all_say_who_may_call(app: Litestar) -> None:
    for route in app.routes:
        for each in getattr(route, "route_handlers", ()):
            said = set(scopes_of(each.opt))
            ours = not str(getattr(each.fn, "__module__", "")).startswith("litestar.")
            if ours and (not said or not said <= KINDS):
                raise RuntimeError(f"the route {route.path} does not say who may call it: opt={{'scope': …}}")
