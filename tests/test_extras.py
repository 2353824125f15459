"""A missing extra names a command that works from where the package came, and never a public index."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tappass import extras
from tappass.errors import TapPassConfigError


def said(monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any]) -> str:
    monkeypatch.setattr(extras, "_direct_url", lambda: origin)
    error = extras.missing("embedded", "the embedded plane")
    assert isinstance(error, TapPassConfigError)
    assert str(error).startswith("the embedded plane needs tappass's extra `embedded`, which is not installed; ")
    return str(error).split("installed; ")[1]


def command(text: str) -> list[str]:
    return shlex.split(text.removeprefix("install it with: "))


def test_an_editable_checkout_is_installed_from_its_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkout = tmp_path / "a checkout"
    checkout.mkdir()
    text = said(monkeypatch, {"url": checkout.as_uri(), "dir_info": {"editable": True}})
    assert command(text) == [sys.executable, "-m", "pip", "install", "--editable", f"{checkout}[embedded]"]


@pytest.mark.parametrize("info", [{"archive_info": {}}, {"dir_info": {}}], ids=["wheel", "directory"])
def test_a_wheel_or_directory_is_named_by_its_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, info: dict[str, Any]
) -> None:
    wheel = tmp_path / "a space" / "tappass-0.6.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    text = said(monkeypatch, {"url": wheel.as_uri(), **info})
    assert command(text)[-1] == f"tappass[embedded] @ {wheel.as_uri()}"


def test_a_repository_is_named_at_the_commit_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    origin = {"url": "https://git.example/tappass", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    assert command(said(monkeypatch, origin))[-1] == "tappass[embedded] @ git+https://git.example/tappass@abc"


@pytest.mark.parametrize(
    "origin", [{}, {"url": "file:///gone/tappass.whl"}, {"url": "https://host.example/tappass.whl"}]
)
def test_an_origin_that_is_gone_or_unknown_gives_no_command(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any]
) -> None:
    text = said(monkeypatch, origin)
    assert text == "install that extra from the wheel or checkout that tappass was installed from: PATH[embedded]"


def test_an_environment_without_pip_is_served_by_uv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = said(monkeypatch, {"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    assert command(text)[:5] == ["uv", "pip", "install", "--python", sys.executable]


def test_this_checkout_knows_where_it_came_from() -> None:
    origin = extras._direct_url()
    assert origin["url"].startswith("file://")


@pytest.mark.parametrize(("extra", "other"), [("google-adk", "crewai"), ("crewai", "google-adk")])
def test_an_extra_that_cannot_go_with_one_that_is_installed_gives_no_command_that_would_fail(
    monkeypatch: pytest.MonkeyPatch, extra: str, other: str
) -> None:
    assert "install it with" in str(extras.missing(extra, "its guard"))
    monkeypatch.setattr(extras, "_is_installed", lambda package: package == other)
    text = str(extras.missing(extra, "its guard"))
    assert text.startswith(f"its guard needs tappass's extra `{extra}`, which cannot be installed beside `{other}`")
    assert "an environment of its own" in text
    assert "install it with" not in text
