"""CrewAI: a crew whose mail stays inside the company, and whose model reads why a mail did not go out.

You get one line around a crew that is there already: each tool call decided before it runs, each model call on record,
and with `on_block="tell"` a crew that goes on after a refusal. Needs `tappass[crewai]`.
"""

import json
import os
from typing import Any

os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false"}  # it would look for a network

from crewai import Agent, Crew, Task
from crewai.llms.base_llm import BaseLLM
from crewai.tools import tool

from tappass import guard_crew
from tappass.testing import memory_plane

POLICY = """
version: 1
rules:
  - {id: mail-stays-inside, tool: send_email, when: '!args.to.endsWith("@acme.com")', effect: block}
"""
sent: list[str] = []


@tool("send_email")
def send_email(to: str) -> str:
    """Send the report to somebody."""
    sent.append(to)
    return f"sent to {to}"


class Script(BaseLLM):
    """Stands in for a model, so that this runs offline: it mails two people, then reports what it heard."""

    def call(self, messages: Any, *_: Any, **__: Any) -> Any:
        heard = [message["content"] for message in messages if message["role"] == "tool"]
        if len(heard) == 2:
            return " / ".join(heard)
        to = ("eve@evil.example", "ann@acme.com")[len(heard)]
        function = {"name": "send_email", "arguments": json.dumps({"to": to})}
        return [{"id": f"call_{len(heard)}", "type": "function", "function": function}]

    def supports_function_calling(self) -> bool:
        return True


def main() -> None:
    writer = Agent(
        role="Writer", goal="mail the report", backstory="-", tools=[send_email], llm=Script(model="scripted")
    )
    task = Task(description="Mail the report to Eve and Ann.", expected_output="who got it", agent=writer)
    crew = Crew(agents=[writer], tasks=[task])
    with memory_plane(POLICY) as plane:
        with guard_crew(crew, on_block="tell") as guarded:
            result = str(guarded.kickoff())
        print(result)
        decided = [(event.name, event.outcome) for event in plane.events(type="call.decided", kind="tool")]
    assert sent == ["ann@acme.com"]
    assert "mail-stays-inside" in result
    assert decided == [("send_email", "block"), ("send_email", "allow")]


if __name__ == "__main__":
    main()
