"""Our own few files that pages are drawn with."""

from __future__ import annotations

from litestar import Response, get
from litestar.exceptions import NotFoundException

from tappass.server.auth import PAGE
from tappass.server.pages.rendering import HEADERS, STATIC, static

# Their address changes with their content.
_KEPT = {"Cache-Control": "public, max-age=31536000, immutable"}


@get("/static/{name:str}", opt={"scope": PAGE}, include_in_schema=False, sync_to_thread=False)
def static_file(name: str) -> Response[bytes]:
    """Serve one of them."""
    if name not in STATIC:
        raise NotFoundException("there is no such file")
    return Response(static(name), media_type=STATIC[name], headers=HEADERS | _KEPT)
