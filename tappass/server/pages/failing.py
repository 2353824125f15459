"""What a page says when it cannot do what was asked."""

from __future__ import annotations

from http import HTTPStatus

from litestar import Response
from litestar.exceptions import HTTPException

from tappass.errors import TapPassConnectionError
from tappass.server import logs
from tappass.server.pages.rendering import page
from tappass.server.pages.visiting import AnyRequest, Refused


def on_refused(_: AnyRequest, error: Refused) -> Response[bytes]:
    """Say why a form was not taken."""
    return _told(error.status, "Not done", str(error))


def on_outage(_: AnyRequest, error: TapPassConnectionError) -> Response[bytes]:
    """Say that the database cannot be reached."""
    logs.failed(error)
    return _told(503, "Not now", "The control plane cannot reach its database. Nothing was changed; try again.")


def on_http(_: AnyRequest, error: HTTPException) -> Response[bytes]:
    """Say what the framework refused: a form that is too long, a method that a page does not take."""
    return _told(
        error.status_code, HTTPStatus(error.status_code).phrase, "The request was refused; nothing was changed."
    )


def on_bug(_: AnyRequest, error: Exception) -> Response[bytes]:
    """Say that something went wrong, and no more."""
    logs.failed(error)
    return _told(500, "It failed", "Something went wrong here; the server's log says what.")


def _told(status: int, heading: str, text: str) -> Response[bytes]:
    return page("message.html", status=status, visitor=None, heading=heading, text=text, onward="")
