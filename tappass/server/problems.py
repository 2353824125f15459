"""Every error as it travels: problem details (RFC 9457), an OpenAI-shaped `error`, and which way the plane said no.

No body holds a key, a payload, or what went wrong inside: that is in the server's own log, under the request's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec

from tappass.errors import GovernanceDecision, TapPassConfigError, TapPassConnectionError
from tappass.problems import MEDIA_TYPE, OUTAGE, ProblemBody, problem, refusal_of, refused, status_of
from tappass.server import logs
from tappass.verify import CorrelationRefused
from tappass.wire.codec import encode


class Problem(Exception):
    """An answer that is no success: raise it in a route, a guard or a dependency.

    Args:
        status: the HTTP status.
        detail: what is wrong and what to do about it; no secret, no payload.
        code: names the problem for programs; "" derives it from the status.
        param: the field that is wrong.
        headers: to send with it.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        code: str = "",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.param = status, detail, param
        self.code = code or HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
        self.headers = dict(headers or {})

    def body(self) -> ProblemBody:
        """Return it as it travels."""
        return problem(self.status, self.detail, code=self.code, param=self.param)


def answer(body: Any, status: int, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """Return a problem's response."""
    return Response(encode(body), status_code=status, media_type=MEDIA_TYPE, headers=headers)


def on_problem(_: Request[Any, Any, Any], error: Problem) -> Response[bytes]:
    """Answer what a route raised as a problem."""
    return answer(error.body(), error.status, error.headers)


def on_decision(_: Request[Any, Any, Any], error: GovernanceDecision) -> Response[bytes]:
    """Answer what the plane said no to: 403, or 428 where people have to agree first."""
    logs.note(session_id=error.session_id, task_id=error.task_id)
    return answer(refused(error), status_of(refusal_of(error)))


def on_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what the framework raised: no route, a method a route does not take, a body of the wrong shape."""
    if isinstance(error, ValidationException) or error.status_code == 400:
        return on_problem(request, malformed(error))
    headers = {key: value for key, value in (error.headers or {}).items() if key.lower() == "allow"}
    detail = "there is nothing at this address" if error.status_code == 404 else HTTPStatus(error.status_code).phrase
    return on_problem(request, Problem(error.status_code, detail, headers=headers))


def malformed(error: Exception) -> Problem:
    """Return the problem that a body or a parameter of the wrong shape is; the field is named, its value is not."""
    extra = getattr(error, "extra", None)
    told = extra[0] if isinstance(extra, list) and extra and isinstance(extra[0], dict) else {}
    text = str(told.get("message") or error.__cause__ or "the request cannot be read")
    return _misshapen(text, str(told.get("key", "")))


def _misshapen(text: str, key: str = "") -> Problem:
    """Return the problem in msgspec's words, which end with the place; `key` names it where they do not."""
    said, _, place = text.partition(" - at `")
    param = place.rstrip("`").removeprefix("$").lstrip(".") or key or None
    where = f"`{param}`: " if param else ""
    return Problem(422, f"{where}{said[:300]}", code="malformed", param=param)


def on_validation(request: Request[Any, Any, Any], error: msgspec.ValidationError) -> Response[bytes]:
    """Answer a shape that a route itself found to be wrong."""
    return on_problem(request, _misshapen(str(error)))


def on_token(request: Request[Any, Any, Any], error: CorrelationRefused) -> Response[bytes]:
    """Answer a correlation token that does not hold; `code` says in what."""
    return on_problem(request, Problem(403, str(error), code=f"correlation_{error.problem}"))


def on_config(request: Request[Any, Any, Any], error: TapPassConfigError) -> Response[bytes]:
    """Answer what the plane cannot do as asked."""
    return on_problem(request, Problem(422, str(error), code="refused"))


def on_outage(request: Request[Any, Any, Any], error: TapPassConnectionError) -> Response[bytes]:
    """Answer that the plane cannot keep its record, so that nothing may run."""
    logs.failed(error)
    return on_problem(request, Problem(503, OUTAGE, code="plane_unavailable", headers={"Retry-After": "1"}))


def on_too_deep(request: Request[Any, Any, Any], _: RecursionError) -> Response[bytes]:
    """Answer JSON that cannot be read for its depth."""
    return on_problem(request, Problem(422, "the body is nested too deeply", code="malformed"))


def on_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a fault of the server's own: that there was one, and no more."""
    if any((kind.__module__, kind.__name__) == ("psycopg", "DataError") for kind in type(error).__mro__):
        detail = "a text in the request holds a NUL or is too long, which the database does not take"
        return on_problem(request, Problem(422, detail, code="malformed"))
    logs.failed(error)
    return on_problem(request, Problem(500, "the control plane failed; its log says how", code="internal"))


def body_of(error: Exception) -> Any:
    """Return the body for an error that comes once an answer has begun, when no status can tell of it."""
    if isinstance(error, GovernanceDecision):
        return refused(error)
    if isinstance(error, Problem):
        return error.body()
    logs.failed(error)
    return Problem(503, "the control plane cannot keep its record now", code="plane_unavailable").body()


EXCEPTIONS: dict[Any, Any] = {
    Problem: on_problem,
    GovernanceDecision: on_decision,
    HTTPException: on_http,
    msgspec.ValidationError: on_validation,
    CorrelationRefused: on_token,
    TapPassConfigError: on_config,
    TapPassConnectionError: on_outage,
    RecursionError: on_too_deep,
    Exception: on_bug,
}


def responses(*statuses: int) -> dict[int, ResponseSpec]:
    """Return, for a route's `responses=`, problems that it may answer beside those that any route may."""
    return {
        status: ResponseSpec(
            data_container=ProblemBody,
            description=HTTPStatus(status).phrase,
            media_type=MediaType.JSON,
            generate_examples=False,
        )
        for status in statuses
    }
