"""What a request's path and query say, as its endpoint takes it: what policy is shown of a governed action."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tappass.errors import PolicyBlockError
from tappass.ext import current_session


def arrived(name: str, connection: Any) -> dict[str, Any]:
    """Return the parameters of path and query by name.

    Those that a route of FastAPI's declares are of their types, with defaults filled; others are text.

    Raises:
        PolicyBlockError: a parameter comes twice, so that policy might see one and the endpoint take the other.
    """
    taken, declared = _taken(getattr(_route(connection.scope), "dependant", None), connection)
    arguments = taken | {key: value for key, value in connection.path_params.items() if key not in declared}
    for key, value in connection.query_params.multi_items():
        if key in declared and key not in connection.path_params:
            continue
        if key in arguments:
            raise _ambiguous(name, key)
        arguments[key] = value
    return arguments


def _route(scope: Any) -> Any:
    """Return the route that serves a request, as the routers around it make it."""
    route = scope.get("route")
    # The scope may name a router's own route, which knows nothing of the prefixes that the router is included under.
    served = scope.get("fastapi", {}).get("effective_route_context")
    return served if served is not None and served.original_route is route else route


def _taken(dependant: Any, connection: Any) -> tuple[dict[str, Any], set[str]]:
    """Return what a route's endpoint and its dependencies get, and the names that it comes under."""
    taken: dict[str, Any] = {}
    declared: set[str] = set()
    if dependant is None:
        return taken, declared
    from fastapi.dependencies.utils import request_params_to_args

    for field, received in _fields(dependant, connection):
        values, wrong = request_params_to_args([field], received)
        if wrong:  # the endpoint will not run, and policy is shown the text
            continue
        declared.add(field.alias)
        for model in values.values():
            for name, inner in getattr(type(model), "model_fields", {}).items():
                taken[name] = getattr(model, name)
                declared.add(inner.alias or name)
        taken |= values
    return taken, declared


def _fields(dependant: Any, connection: Any) -> Iterator[tuple[Any, Any]]:
    for inner in dependant.dependencies:
        yield from _fields(inner, connection)
    for field in dependant.path_params:
        yield field, connection.path_params
    for field in dependant.query_params:
        # What a prefix names is of the path, also where the route was described without that prefix.
        yield field, connection.path_params if field.name in connection.path_params else connection.query_params


def _ambiguous(name: str, key: str) -> PolicyBlockError:
    session = current_session()
    return PolicyBlockError(
        f"`{name}` was not run: the parameter {key!a:.80} came more than once; declare it, or say `arguments`",
        blocked_by="ambiguous-argument",
        reason="a parameter came more than once",
        correlation=session.correlation if session is not None else None,
    )
