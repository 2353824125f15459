"""One address, two readers: browsers get a session's page, programs get JSON."""

from __future__ import annotations

from typing import Any

import pytest

from tappass.server.pages.negotiation import BrowsersSeePages


@pytest.mark.parametrize(("method", "path", "headers", "asked"), [
    ("GET", "/sessions/ses_1", {b"accept": b"text/html"}, "/pages/sessions/ses_1"),
    ("GET", "/", {b"accept": b"text/html"}, "/pages/"),
    ("GET", "/sessions/ses_1", {b"accept": b"application/json"}, "/sessions/ses_1"),
    ("GET", "/sessions/ses_1", {}, "/sessions/ses_1"),
    ("PATCH", "/sessions/ses_1", {b"accept": b"text/html"}, "/sessions/ses_1"),
    ("GET", "/sessions/ses_1", {b"accept": b"text/html", b"authorization": b"Bearer tp_x"}, "/sessions/ses_1"),
    ("GET", "/v1/checkpoint", {b"accept": b"text/html"}, "/v1/checkpoint"),
])  # fmt: skip
@pytest.mark.anyio
async def test_one_address_answers_browsers_with_its_page_and_programs_with_json(
    method: str, path: str, headers: dict[bytes, bytes], asked: str
) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])

    scope: Any = {"type": "http", "method": method, "path": path, "headers": list(headers.items())}
    await BrowsersSeePages(app)(scope, None, None)  # type: ignore[arg-type]
    assert seen == [asked]
