"""Who may call which route: every route says its scope in `opt`, one guard holds it to that.

`opt={"scope": AGENT}`, or several: `opt={"scope": (ADMIN, AUDITOR)}`; `PUBLIC` asks for nothing, `PAGE` leaves it to a
guard of its own (the login by cookie). A route that says nothing is not served: the app refuses to be made.
"""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute

from tappass.engine.credentials import ADMIN, AGENT, APPROVER, AUDITOR, Principal
from tappass.engine.hopping import hop
from tappass.plane.embedded import EmbeddedPlane
from tappass.server import problems
from tappass.server.house import House
from tappass.server.limits import Attempts

PUBLIC, PAGE = "public", "page"
_WITH_BODY = frozenset({"PATCH", "POST", "PUT"})
KINDS = frozenset({ADMIN, AGENT, APPROVER, AUDITOR, PAGE, PUBLIC})

_Connection = ASGIConnection[Any, Any, Any, Any]


def scopes_of(opt: dict[str, Any]) -> tuple[str, ...]:
    """Return the scopes that a route asks for, () if it does not say."""
    said = opt.get("scope", ())
    return (said,) if isinstance(said, str) else tuple(said)


async def authenticate(connection: _Connection, route: BaseRouteHandler) -> None:
    """Let a request pass whose key has a scope that the route asks for.

    Raises:
        Problem: 401 without a valid key, 403 with one of another scope, 429 after too many that were not valid.
    """
    wanted = scopes_of(route.opt)
    if not wanted:
        raise problems.Problem(405, "this route does not take that method", headers={"Allow": _methods(connection)})
    if wanted[0] in (PUBLIC, PAGE):
        return
    principal = await principal_of(connection)
    if not principal.may(*wanted):
        raise problems.Problem(403, f"this key's scope does not do; the route takes: {', '.join(wanted)}", code="scope")
    connection.scope["principal"] = principal  # type: ignore[typeddict-unknown-key]
    if connection.scope.get("method") in _WITH_BODY:
        _is_json(connection)


def _is_json(connection: _Connection) -> None:
    headers = connection.headers
    kind, _, parameters = headers.get("content-type", "").partition(";")
    if not kind and headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8"):
        raise problems.Problem(415, "send JSON in UTF-8: `Content-Type: application/json`")


def _methods(connection: _Connection) -> str:
    """Return the methods that a path is served for."""
    path = connection.scope.get("path_template", "")
    found = {
        method
        for each in connection.app.routes
        if each.path_format == path and isinstance(each, HTTPRoute)
        for handler in each.route_handlers
        if scopes_of(handler.opt)
        for method in handler.http_methods
    }
    return ", ".join(sorted(found))


async def principal_of(connection: _Connection) -> Principal:
    """Return who shows the key of a request.

    Raises:
        Problem: 401 without a valid key, 429 after too many that were not valid.
    """
    house: House = connection.app.state.house
    attempts: Attempts = connection.app.state.attempts
    address = connection.client.host if connection.client is not None else ""
    kind, _, key = connection.headers.get("authorization", "").partition(" ")
    key = key.strip()
    found = None
    if kind.lower() == "bearer" and key:
        found = house.credentials.remembered(key) or await hop(house.credentials.principal, key)
    if found is None:
        if key and (wait := attempts.failed(address)):
            raise problems.Problem(429, "too many keys that are not valid; wait", headers={"Retry-After": str(wait)})
        told = "that key is not valid" if key else "a key is needed: `Authorization: Bearer tp_…`"
        raise problems.Problem(401, told, headers={"WWW-Authenticate": 'Bearer realm="tappass"'})
    return found


def provide_house(request: Request[Any, Any, Any]) -> House:
    """Return the house; a route asks for it by the name `house`."""
    house: House = request.app.state.house
    return house


def provide_principal(request: Request[Any, Any, Any]) -> Principal:
    """Return who calls; a route asks for it by the name `principal`."""
    principal: Principal = request.scope["principal"]  # type: ignore[typeddict-item]
    return principal


async def provide_plane(house: House, principal: Principal) -> EmbeddedPlane:
    """Return the plane of the caller's project; a route asks for it by the name `plane`."""
    made = house.opened(principal.org_id, principal.project_id)
    return made if made is not None else await hop(house.plane_of, principal)
