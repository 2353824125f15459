"""What a request's session is called: its method and the route that it takes, never the path itself."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def label(scope: Any, app: Any) -> str:
    """Return `GET /orders/{order_id}`, or the method alone where the route is not known: a path may hold anything."""
    while app is not None and not hasattr(app, "routes"):
        app = getattr(app, "app", None)
    method = scope["method"] if scope["type"] == "http" else "WEBSOCKET"
    path, root = scope["path"], scope.get("root_path", "")
    found = _template(getattr(app, "routes", ()), path.removeprefix(root) or "/", method)
    return f"{method} {found}" if found else str(method)


def routes_in(routes: Iterable[Any]) -> Iterable[Any]:
    """Return an application's routes, with those of FastAPI's routers that it includes by reference."""
    contexts = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    return contexts(routes) if contexts is not None else routes


def _template(routes: Iterable[Any], path: str, method: str) -> str:
    for route in routes_in(routes):
        match = regex.match(path) if (regex := getattr(route, "path_regex", None)) is not None else None
        if match is None:
            continue
        methods = getattr(route, "methods", None)
        inner = getattr(route, "routes", None)
        if methods is None and inner is not None and "path" in match.groupdict():
            return f"{route.path}{_template(inner, '/' + match['path'], method)}"
        if methods is None or method in methods:
            return str(route.path)
    return ""
