"""Google ADK: an agent's tools and its sub-agents' are decided before they run, whichever of them the model picks.

You get a governed runner by decorating `runner.run`: a refusal ends the run as an exception of ours that says which
rule it was and where to read on, even where the framework would have gone on. Needs `tappass[google-adk]`.
"""

import warnings
from collections.abc import AsyncIterator
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types

from tappass import PolicyBlockError, guard_adk_agent
from tappass.testing import memory_plane

POLICY = """
version: 1
rules:
  - {id: keep-backups, tool: delete, when: 'args.path.startsWith("/backup/")', effect: block}
"""
deleted: list[str] = []


def delete(path: str) -> str:
    """Delete a file."""
    deleted.append(path)
    return f"{path} is gone"


class Script(BaseLlm):
    """Stands in for a model, so that this runs offline: it deletes what it was told to, one file after another."""

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncIterator[LlmResponse]:
        texts = [part.text for content in llm_request.contents for part in content.parts or () if part.text]
        done = [part for content in llm_request.contents for part in content.parts or () if part.function_response]
        paths = texts[0].split()
        if len(done) == len(paths):
            part = types.Part(text="tidy")
        else:
            part = types.Part(function_call=types.FunctionCall(name="delete", args={"path": paths[len(done)]}))
        yield LlmResponse(content=types.Content(role="model", parts=[part]))


def main() -> None:
    warnings.simplefilter("ignore")  # of ADK's own experimental parts
    agent = LlmAgent(name="janitor", model=Script(model="scripted"), tools=[delete])
    runner = InMemoryRunner(agent=agent, app_name="janitor")
    runner.auto_create_session = True
    run = guard_adk_agent(name="tidy up")(runner.run)
    with memory_plane(POLICY) as plane:
        try:
            for event in run(user_id="ann", session_id="1", new_message=types.UserContent("/cache/a /backup/b")):
                print(event.author, [call.args for call in event.get_function_calls()])
        except PolicyBlockError as error:
            print(error)
            blocked_by = error.blocked_by
        closed = [event.status for event in plane.events(type="session.closed")]
    assert blocked_by == "keep-backups"
    assert deleted == ["/cache/a"]
    assert closed == ["failed"]


if __name__ == "__main__":
    main()
