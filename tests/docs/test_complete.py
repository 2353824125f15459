"""The pages leave nothing out: every public name, error, setting and obligation has its heading, every link its end."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

import tappass
from tappass import errors, testing
from tappass.wire.obligations import Obligation

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SITE = sorted(DOCS.glob("*.md"))
LINKED = [ROOT / "README.md", *SITE, *sorted((ROOT / "cookbook").glob("*.md"))]
FIRST_SCREEN = 45
PROSE = {"security.md"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def tokens(page: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(page.read_text())


def headings(page: Path) -> list[str]:
    parsed = tokens(page)
    return [after.content for token, after in itertools.pairwise(parsed) if token.type == "heading_open"]


def anchors(page: Path) -> set[str]:
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(page)}


def links(page: Path) -> Iterator[str]:
    for token in tokens(page):
        for child in token.children or ():
            if child.type == "link_open":
                yield str(child.attrs["href"])


def settings(kind: type[msgspec.Struct], above: str = "") -> Iterator[str]:
    """Yield every setting as it is written in TOML: `audit.content`, `upstream.base_url`."""
    for field in msgspec.structs.fields(kind):
        inner = field.type
        arguments = [item for item in get_args(inner) if isinstance(item, type) and issubclass(item, msgspec.Struct)]
        below = inner if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else next(iter(arguments), None)
        if below is None:
            yield above + field.encode_name
        else:
            yield from settings(below, f"{above}{field.encode_name}.")


@pytest.mark.parametrize("name", tappass.__all__)
def test_every_public_name_has_a_heading(name):
    if tappass._HOMES[name].startswith("tappass_adapters"):
        # A framework's page shows its guard.
        assert any(name in headings(page) for page in SITE)
    else:
        page = "errors.md" if name in errors.__all__ else "reference.md"
        assert name in headings(DOCS / page)


def test_every_error_has_a_heading():
    assert sorted(headings(DOCS / "errors.md")[1:]) == errors.__all__


@pytest.mark.parametrize("name", testing.__all__)
def test_every_name_for_tests_has_a_heading(name):
    assert name in headings(DOCS / "testing.md")


@pytest.mark.parametrize("kind", get_args(Obligation), ids=lambda kind: kind.__name__)
def test_every_obligation_has_a_heading(kind):
    assert kind.__struct_config__.tag in headings(DOCS / "reference.md")


def test_every_setting_has_a_heading():
    from tappass.engine.settings import Settings

    missing = sorted(set(settings(Settings)) - set(headings(DOCS / "reference.md")))
    assert not missing


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_every_link_leads_somewhere(page):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", [page for page in SITE if page.name not in PROSE], ids=name_of)
def test_the_first_screen_shows_what_you_get_and_something_that_works(page):
    parsed = tokens(page)
    assert [token.type for token in parsed[:4]] == ["heading_open", "inline", "heading_close", "paragraph_open"]
    fences = [token.map[0] for token in parsed if token.type == "fence" and token.map]
    assert fences, "no example at all"
    assert fences[0] < FIRST_SCREEN


def test_the_index_names_every_page():
    named = set(links(DOCS / "index.md"))
    assert not {page.name for page in SITE if page.name != "index.md"} - named
