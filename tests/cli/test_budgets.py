"""What is spent of the budgets, on the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tappass import PolicyBlockError, tappass_session, tool
from tests.cli.conftest import Command

POLICY = """\
version: 1
budgets:
  call: {llm_tokens: 2000}
  session: {tool_calls: 2}
  agent: {tool_calls: 100}
  day: {tool_calls: 10, usd: 20.50}
"""


@pytest.fixture
def spent(tappass: Command) -> Iterator[str]:
    """A project in which a session that is still open has spent its budget; its id."""
    Path("policy.yaml").write_text(POLICY)
    assert tappass("init").code == 0

    @tool
    def work() -> None:
        return None

    with tappass_session(name="nightly", agent="ann") as session:
        work()
        work()
        with pytest.raises(PolicyBlockError):
            work()
        yield session.session_id


def test_budgets_are_shown_with_limit_and_use(spent: str, tappass: Command) -> None:
    shown = tappass("budgets")
    assert shown.code == 0
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert lines[0] == "call at most 2000 tokens each"
    assert f"session {spent} nightly 2 of 2 tool calls" in lines
    assert any(line.startswith("agent ") and line.endswith("ann 2 of 100 tool calls") for line in lines)
    days = [line.split(" ", 2)[2] for line in lines if line.startswith("day ")]
    assert days == ["2 of 10 tool calls", "0 of 20.5 USD"]


def test_budgets_as_json(spent: str, tappass: Command) -> None:
    lines = tappass("budgets", "--json").json
    (mine,) = [line for line in lines if line["scope"] == "session"]
    assert mine == {
        "scope": "session",
        "measure": "tool_calls",
        "subject": spent,
        "name": "nightly",
        "used": "2",
        "limit": "2",
    }


def test_a_closed_session_is_no_longer_shown(spent: str, tappass: Command) -> None:
    with tappass_session(name="later") as later:
        assert later.session_id in tappass("budgets").out
    shown = tappass("budgets").out
    assert later.session_id not in shown
    assert spent in shown


def test_a_policy_without_budgets_has_none_to_show(project: Path, tappass: Command) -> None:
    assert tappass("init").code == 0
    assert "no budgets" in tappass("budgets").out
    assert tappass("budgets", "--json").json == []


def test_without_a_database_the_error_says_how_to_make_one(tappass: Command) -> None:
    shown = tappass("budgets")
    assert shown.code == 2
    assert "`tappass init`" in shown.err
