"""Logging in with a key, and out again."""

from __future__ import annotations

from urllib.parse import quote

from litestar import Response, get, post

from tappass.engine.credentials import Principal, digest_of
from tappass.engine.hopping import hop
from tappass.server import logs
from tappass.server.auth import PAGE
from tappass.server.house import House
from tappass.server.limits import Attempts
from tappass.server.pages.rendering import page, redirect
from tappass.server.pages.visiting import (
    READERS,
    AnyRequest,
    NotLoggedIn,
    begin,
    cookies,
    end,
    form,
    house_of,
    visitor_of,
)

HOME = "/approvals"
_LONGEST_FORM = 8_000
_AGENTS = "that is an agent's key; the pages take the key of an approver, an admin or an auditor"


@get("/pages", opt={"scope": PAGE}, include_in_schema=False)
async def home() -> Response[bytes]:
    """Lead to the approvals."""
    return redirect(HOME)


@get("/login", opt={"scope": PAGE}, include_in_schema=False)
async def login(request: AnyRequest) -> Response[bytes]:
    """Ask for a key."""
    onward = local(request.query_params.get("next", ""))
    try:
        await visitor_of(request)
    except NotLoggedIn:
        return page("login.html", visitor=None, next=onward, problem="")
    return redirect(onward)


@post("/login", opt={"scope": PAGE}, include_in_schema=False, request_max_body_size=_LONGEST_FORM)
async def log_in(request: AnyRequest) -> Response[bytes]:
    """Take a key, forget it, and begin a visit."""
    fields = await form(request)
    onward, key = local(fields.get("next", "")), fields.get("key", "").strip()
    house = house_of(request)
    found = await hop(house.credentials.principal, key) if key else None
    if found is None:
        return _wrong(request, onward)
    if not found.may(*READERS):
        return page("login.html", status=403, visitor=None, next=onward, problem=_AGENTS)
    logs.said("logged in", key_id=found.key_id, org_id=found.org_id, client=_client(request))
    answer = redirect(onward)
    answer.cookies.extend(cookies(request, await hop(_begin, (house, found, key))))
    return answer


def _begin(asked: tuple[House, Principal, str]) -> str:
    house, principal, key = asked
    return begin(house, principal, digest_of(key))


def _wrong(request: AnyRequest, onward: str) -> Response[bytes]:
    attempts: Attempts = request.app.state.attempts
    wait = attempts.failed(_client(request))
    logs.said("login refused", client=_client(request))
    if wait:
        problem = f"Too many keys that are not valid came from your address. Wait {wait} seconds."
        return page(
            "login.html", status=429, headers={"Retry-After": str(wait)}, visitor=None, next=onward, problem=problem
        )
    problem = "That key is not valid: mistyped, expired or revoked."
    return page("login.html", status=401, visitor=None, next=onward, problem=problem)


def _client(request: AnyRequest) -> str:
    return request.client.host if request.client is not None else ""


@post("/logout", opt={"scope": PAGE}, include_in_schema=False, request_max_body_size=_LONGEST_FORM)
async def log_out(request: AnyRequest) -> Response[bytes]:
    """End the visit."""
    visitor = await visitor_of(request)
    await form(request, visitor)
    house = house_of(request)
    await hop(lambda given: end(house, given), visitor.visit)
    answer = redirect("/login")
    answer.cookies.extend(cookies(request, ""))
    return answer


def not_logged_in(request: AnyRequest, _: NotLoggedIn) -> Response[bytes]:
    """Lead to the login, and from there back to what was asked for."""
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
        # Followed from another site, so the browser kept the cookie back; from our own page it will not.
        heading, text = "Opening", "You came from another site."
        return page("message.html", visitor=None, heading=heading, text=text, onward=local(asked))
    onward = local(asked) if request.method == "GET" else HOME
    return redirect("/login" if onward == HOME else f"/login?next={quote(onward, safe='')}")


def local(asked: str) -> str:
    """Return a page of ours that somebody asks to be led to, the approvals where it is none."""
    path = asked.removeprefix("/pages") if asked.startswith("/pages/sessions/") else asked
    plain = path.isascii() and path.isprintable() and not set(path) & set(" \\\"'<>")
    ours = path == HOME or path.startswith((f"{HOME}/", f"{HOME}?", "/sessions/"))
    return path if plain and ours and "//" not in path and ".." not in path else HOME


HANDLERS = [home, login, log_in, log_out]
