"""The page about OpenAI does what it says, block by block, against the scripted model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters import scripted_responses  # noqa: F401  a protocol of the scripted model
from tests.adapters.scripted import ScriptedModel, calls
from tests.people import agree
from tests.structure.pages import blocks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "openai.md"
BLOCKS = [block.text for block in blocks(PAGE) if block.language == "python"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def model(tappass_plane: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    from agents.models import _openai_shared

    # The SDK keeps the client that it made first.
    monkeypatch.setattr(_openai_shared, "_default_openai_client", None)
    tappass_plane.policy("version: 1\nrules:\n  - {id: ask, tool: pay, effect: require_approval}")
    with ScriptedModel() as made:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{made.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "x")
        yield made


def follow(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_first_example_runs_its_tool(model, capsys, audit_events):
    model.play(calls(("send_email", {"to": "ann@acme.com", "text": "closed"})))
    follow(BLOCKS[0])
    assert capsys.readouterr().out == "all done\n"
    assert [e.name for e in audit_events(type="call.decided") if e.kind == "tool"] == ["send_email"]


def test_the_entered_example_shows_its_session(model, capsys, audit_events):
    follow(BLOCKS[1])
    session_id = audit_events(type="session.opened")[0].session_id
    assert session_id in capsys.readouterr().out


def test_the_approval_example_goes_on_from_what_was_stored(model, tappass_plane, capsys):
    names = follow(BLOCKS[2])
    model.play(calls(("pay", {"amount": 5})))

    async def main() -> Any:
        stored = await names["start"]("pay 5")
        agree(tappass_plane.plane.engine)
        return await names["go_on"](stored)

    assert anyio.run(main).final_output == "all done"
    assert "waiting at http" in capsys.readouterr().out


def test_the_clients_example_loops_to_its_end(model, capsys):
    model.play(calls(("look", {"city": "Paris"})))
    follow(BLOCKS[3])
    assert capsys.readouterr().out.startswith("all done http")
    assert len(BLOCKS) == 4
