"""Pages from templates: everything escaped, nothing executable, nothing from elsewhere, nothing kept."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from litestar import Response
from markupsafe import Markup

from tappass.engine.phrases import duration, minute
from tappass.harmless import escaped, is_harmful, shown

_HERE = Path(__file__).parent
STYLE, ICON = "pages.css", "icon.svg"
STATIC = {STYLE: "text/css; charset=utf-8", ICON: "image/svg+xml"}
# No script anywhere, not even our own. Forms must say where they come from, so no `no-referrer`.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def page(template: str, *, status: int = 200, headers: dict[str, str] | None = None, **context: Any) -> Response[bytes]:
    """Return a page made from a template."""
    body = _templates().get_template(template).render(context)
    # A lone surrogate is shown escaped; none may reach the bytes.
    content = body.encode("utf-8", "backslashreplace")
    return Response(
        content, status_code=status, media_type="text/html; charset=utf-8", headers=HEADERS | (headers or {})
    )


def redirect(to: str, headers: dict[str, str] | None = None) -> Response[bytes]:
    """Return an answer that sends a browser on with GET."""
    return Response(b"", status_code=303, headers=HEADERS | {"Location": to} | (headers or {}))


@cache
def static(name: str) -> bytes:
    """Return one of our own files."""
    return (_HERE / "static" / name).read_bytes()


@cache
def address(name: str) -> str:
    """Return where one of our own files is served: another address once it changes, so that it may be kept."""
    return f"/static/{name}?{hashlib.sha256(static(name)).hexdigest()[:12]}"


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": marked,
        "short": short,
        "plain": plain,
        "prose": prose,
        "minute": minute,
        "duration": duration,
        "json": json,
    }
    environment.globals |= {"address": address, "style": STYLE, "icon": ICON}
    return environment


def marked(text: object) -> Markup:
    """Return text of strangers as HTML that only shows it: what would act, hide or reorder is escaped and marked."""
    whole = str(text)
    if whole.isascii() and whole.isprintable():
        return Markup.escape(whole)
    # A run at a time: most text is plain.
    parts: list[Markup] = []
    start = 0
    for at, character in enumerate(whole):
        if is_harmful(character):
            # Where a line ends it ends on the page as well.
            ends = "\n" if character == "\n" else ""
            parts += [Markup.escape(whole[start:at]), _mark(escaped(character)), Markup(ends)]  # noqa: S704 (a constant)
            start = at + 1
    return Markup("").join([*parts, Markup.escape(whole[start:])])


def prose(text: object) -> Markup:
    """Return what a person wrote as HTML that only shows it; its lines stay lines."""
    return Markup("\n").join(marked(line) for line in str(text).replace("\r\n", "\n").split("\n"))


def plain(text: object, limit: int = 60) -> str:
    """Return the beginning of a text of strangers without any markup: for titles and attributes."""
    return shown(text, limit=limit)


def _mark(code: str) -> Markup:
    return Markup('<b class="mark">{}</b>').format(code)


def short(text: object, limit: int = 200) -> Markup:
    """Return the beginning of a text of strangers, and how much more there is."""
    whole = str(text)
    if len(whole) <= limit:
        return marked(whole)
    return marked(whole[:limit]) + Markup('<i class="more">… {} characters more</i>').format(f"{len(whole) - limit:,}")


def json(value: Any) -> Markup:
    """Return a JSON value for reading, harmless; text stands in quotes, its own quotes and backslashes escaped."""
    return marked_json(value, 0)


def marked_json(value: Any, depth: int) -> Markup:
    """Return a JSON value as HTML, an item a line."""
    if isinstance(value, str):
        return Markup('"{}"').format(marked(value.replace("\\", "\\\\").replace('"', '\\"')))
    if isinstance(value, dict | list) and value:
        margin = "  " * (depth + 1)
        keys = (
            [marked_json(str(key), 0) + ": " for key in value] if isinstance(value, dict) else [Markup("")] * len(value)
        )
        items = value.values() if isinstance(value, dict) else value
        lines = [margin + key + marked_json(item, depth + 1) for key, item in zip(keys, items, strict=True)]
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        return Markup("{}\n{}\n{}{}").format(opening, Markup(",\n").join(lines), "  " * depth, closing)
    return marked(msgspec.json.encode(value).decode())
