"""The page on CrewAI does what it says."""

from __future__ import annotations

import ast
import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest
from crewai.tools import tool as crew_tool

from tappass import ApprovalRequired
from tests.people import agree
from tests.structure.pages import blocks

PAGE = Path(__file__).resolve().parents[3] / "docs" / "crewai.md"
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def run(text: str, names: dict[str, Any]) -> None:
    code = compile(text, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.iscoroutine(result):
        asyncio.run(result)


def test_the_pages_examples_run_in_their_order(tappass_plane, script, monkeypatch, audit_events):
    sent: list[str] = []

    @crew_tool
    def send_email(to: str) -> str:
        """Send a mail."""
        sent.append(to)
        return "sent"

    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setenv("OPENAI_BASE_URL", script.url)
    names: dict[str, Any] = {"send_email": send_email}
    examples = [block.text for block in blocks(PAGE) if block.language == "py"]
    held = next(index for index, text in enumerate(examples) if "ApprovalRequired" in text)
    for index, text in enumerate(examples):
        script.says([("send_email", {"to": "ann@acme.com"})], "the end")
        if index == held:
            tappass_plane.policy("version: 1\nrules: [{id: ask, tool: send_email, effect: require_approval}]")
            before, _, after = text.partition("# later\n")
            run(before, names)
            assert agree(tappass_plane.plane.engine) == 1
            script.says([("send_email", {"to": "ann@acme.com"})], "the end")
            text = after
        if index == held + 1:
            tappass_plane.policy("version: 1")
        run(text, names)
    names["answer"]("who?")
    assert len(examples) == 5
    assert sent == ["ann@acme.com"] * 6
    assert {event.status for event in audit_events(type="session.closed")} == {"completed", "suspended"}
    assert issubclass(ApprovalRequired, Exception)
