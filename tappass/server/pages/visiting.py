"""Who is at the pages: a cookie with a random id, the key behind it looked at again with every request."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import msgspec
from litestar import Request
from litestar.datastructures import Cookie

from tappass.engine.credentials import ADMIN, APPROVER, AUDITOR, Principal
from tappass.engine.hopping import hop
from tappass.engine.visits import Visits
from tappass.errors import TapPassError
from tappass.server.house import House

READERS = (ADMIN, APPROVER, AUDITOR)
_PLAIN, _SECURE = "tappass_visit", "__Host-tappass_visit"

AnyRequest = Request[Any, Any, Any]


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who has logged in; `visit` is as the cookie has it, `csrf` belongs into every form."""

    principal: Principal
    visit: str
    csrf: str


class NotLoggedIn(TapPassError):
    """Nobody has logged in, or not any more."""


class Refused(TapPassError):
    """A form that was not sent from here, or cannot be read; `status` is the HTTP status."""

    def __init__(self, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.status = status


def house_of(request: AnyRequest) -> House:
    """Return the house whose pages these are."""
    return cast(House, request.app.state.house)


async def visitor_of(request: AnyRequest) -> Visitor:
    """Return who is at the pages.

    Raises:
        NotLoggedIn: nobody: no visit, one that is over, or a key that is no longer good.
    """
    given = request.cookies.get(_SECURE) or request.cookies.get(_PLAIN) or ""
    sound = given.isascii() and given.isprintable()
    found = await hop(_find, (house_of(request), given)) if given and sound else None
    if found is None or not found.may(*READERS):
        raise NotLoggedIn("log in")
    return Visitor(principal=found, visit=given, csrf=csrf_of(given))


def _find(asked: tuple[House, str]) -> Principal | None:
    house, given = asked
    org_id, _, visit = given.rpartition(".")
    digest = visits(house, org_id).find(visit)
    found = house.credentials.holder(digest) if digest is not None else None
    return found if found is not None and found.org_id == org_id else None


def visits(house: House, org_id: str) -> Visits:
    """Return the visits of an organisation."""
    return Visits(house.store.scoped(org_id), org_id, house.clock)


def begin(house: House, principal: Principal, key_digest: bytes) -> str:
    """Begin a visit; return what the cookie is to hold."""
    return f"{principal.org_id}.{visits(house, principal.org_id).begin(key_digest)}"


def end(house: House, given: str) -> None:
    """End a visit, here and wherever else its cookie lies."""
    org_id, _, visit = given.rpartition(".")
    visits(house, org_id).end(visit)


def cookies(request: AnyRequest, given: str) -> list[Cookie]:
    """Return the cookie of a visit; "" takes it away. It lives as long as the browser's window, at most."""
    # A proxy may speak https where this server does not; the browser says how it got here.
    secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
    name = _SECURE if secure else _PLAIN
    options: dict[str, Any] = {"path": "/", "httponly": True, "samesite": "strict", "secure": secure}
    return [Cookie(key=name, value=given, max_age=None if given else 0, **options)]


def csrf_of(given: str) -> str:
    """Return what a form of this visit carries: another site can read neither it nor the cookie it is made from."""
    return hmac.digest(given.encode("utf-8", "surrogatepass"), b"tappass form", hashlib.sha256).hex()


async def form(request: AnyRequest, visitor: Visitor | None = None) -> dict[str, str]:
    """Return the fields of a form that was sent from a page of ours, and by this visitor where there is one.

    Raises:
        Refused: it comes from elsewhere, or is no form.
    """
    _from_here(request)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise Refused("that is no form", 415)
    body = await request.body()
    try:
        fields = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=10))
    except ValueError:
        raise Refused("that form cannot be read", 400) from None
    if visitor is not None and not hmac.compare_digest(
        fields.get("csrf", "").encode("utf-8", "surrogatepass"), visitor.csrf.encode()
    ):
        raise Refused("this form belongs to another login; go back, look again, and send it anew")
    return fields


def _from_here(request: AnyRequest) -> None:
    """Refuse what another site's page sent; every browser says where a form comes from."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = urlsplit(request.headers.get("origin", ""))
    if site != "same-origin" or not origin.netloc or origin.netloc != request.headers.get("host", ""):
        raise Refused("this form was not sent from a page of this server; nothing was done")
