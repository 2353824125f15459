"""`/openapi.json`: what Litestar finds in the routes, completed by what the guard and the limits answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from litestar import Litestar, Request, Router
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Reference,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIType

from tappass.problems import MEDIA_TYPE
from tappass.server.auth import PAGE, PUBLIC, scopes_of
from tappass.wire.version import VERSION

_KEY, _PROBLEM = "key", "Problem"
# Whatever the route: too large a head, too many wrong keys, no database, a bug.
_ANY = (429, 431, 500, 503)
_KEYED = (401, 403)
_BODY = (408, 413, 415, 422)


def described() -> OpenAPIConfig:
    """Return how the description is made and where it is served."""
    return OpenAPIConfig(
        title="TapPass",
        version=VERSION,
        summary="Runtime governance for AI agents: the control plane",
        # A router of its own: the framework's would take every unknown address for one of its pages.
        openapi_router=Router("/openapi.json", route_handlers=[], include_in_schema=False, opt={"scope": PUBLIC}),
        render_plugins=[_Completed(path="/")],
        components=Components(
            security_schemes={
                _KEY: SecurityScheme(type="http", scheme="bearer", description="`tp_…`, `tp_admin_…`, …")
            },
        ),
    )


class _Completed(JsonRenderPlugin):
    """Makes the description when it is first asked for: no server need wait for it to start."""

    _described: dict[str, Any] | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if self._described is None:
            complete(request.app)
            self._described = request.app.openapi_schema.to_schema()
        return super().render(request, self._described)


def complete(app: Litestar) -> None:
    """Add to every operation who may call it and every answer that it shares with others."""
    paths = app.openapi_schema.paths or {}
    if (components := app.openapi_schema.components) is not None:
        components.schemas[_PROBLEM] = _problem()
    for route in app.routes:
        item: Any = paths.get(getattr(route, "path_format", ""))
        for each in getattr(route, "route_handlers", ()):
            for method in each.http_methods if item is not None else ():
                operation = getattr(item, method.lower(), None)
                if operation is not None:
                    _complete(operation, scopes_of(each.opt), "{" in route.path_format)


def _complete(operation: Operation, scopes: tuple[str, ...], has_parameters: bool) -> None:
    statuses = [*_ANY]
    if scopes and scopes[0] not in (PUBLIC, PAGE):
        statuses += _KEYED
        operation.security = [{_KEY: []}]
        told = f"For keys of the scope {' or '.join(scopes)}."
        operation.description = f"{operation.description}\n\n{told}" if operation.description else told
    if operation.request_body is not None:
        statuses += _BODY
    if operation.parameters:
        statuses += (422,)
    if has_parameters:
        statuses += (404,)
    responses = operation.responses if operation.responses is not None else {}
    # The framework's word for what is answered by 422 here.
    responses.pop("400", None)
    for status in (*statuses, *(int(said) for said in responses if int(said) >= 400)):
        responses[str(status)] = _answer(status)
    operation.responses = dict(sorted(responses.items()))


def _answer(status: int) -> OpenAPIResponse:
    shape = OpenAPIMediaType(schema=Reference(ref=f"#/components/schemas/{_PROBLEM}"))
    return OpenAPIResponse(description=HTTPStatus(status).phrase, content={MEDIA_TYPE: shape})


def _problem() -> Schema:
    text = Schema(type=OpenAPIType.STRING)
    told = dict.fromkeys(("message", "type", "code"), text)
    error = Schema(
        type=OpenAPIType.OBJECT,
        properties={**told, "param": Schema(type=[OpenAPIType.STRING, OpenAPIType.NULL])},
        required=list(told),
    )
    named = dict.fromkeys(("type", "title", "detail", "message", "reason"), text)
    return Schema(
        type=OpenAPIType.OBJECT,
        description="A problem (RFC 9457) with an OpenAI-shaped `error`.",
        properties={**named, "status": Schema(type=OpenAPIType.INTEGER), "error": error},
        required=[*named, "status", "error"],
    )
