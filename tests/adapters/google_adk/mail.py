"""The agents that tests run: tools that note what they got, and ways of running."""

from __future__ import annotations

import asyncio
from typing import Any

from google.adk.agents import LlmAgent, RunConfig
from google.adk.agents.run_config import StreamingMode
from google.adk.runners import InMemoryRunner
from google.genai import types

from tappass import guard_adk_agent

OUT = ("send", {"to": "eve@evil.example"})
IN = ("send", {"to": "ann@acme.com"})
PAY = ("pay", {"amount": 5})


class Tools:
    """Functions that note their calls in `ran`."""

    def __init__(self) -> None:
        self.ran: list[Any] = []

    @property
    def functions(self) -> list[Any]:
        def send(to: str) -> str:
            """Send a mail."""
            self.ran.append(("send", to))
            return f"sent to {to}"

        async def pay(amount: int) -> dict[str, Any]:
            """Pay an amount."""
            self.ran.append(("pay", amount))
            return {"paid": amount}

        def look(text: str) -> dict[str, Any]:
            """Look something up."""
            self.ran.append(("look", text))
            return {"found": f"{text} bob@acme.com"}

        def wipe() -> str:
            """Wipe everything."""
            self.ran.append("wipe")
            return "wiped"

        def fail() -> str:
            """Fail."""
            self.ran.append("fail")
            raise KeyError("mine")

        return [send, pay, look, wipe, fail]


def mailer(noting: Tools, **more: Any) -> LlmAgent:
    options = {"name": "mailer", "model": "gemini-2.5-flash", "instruction": "mail", "tools": noting.functions}
    return LlmAgent(**(options | more))


def runner_of(agent: Any, **more: Any) -> InMemoryRunner:
    runner = InMemoryRunner(agent=agent, app_name="mail", **more)
    runner.auto_create_session = True
    return runner


def message(text: str = "go") -> types.Content:
    return types.Content(role="user", parts=[types.Part(text=text)])


def asked(session: str = "s", **more: Any) -> dict[str, Any]:
    return {"user_id": "u", "session_id": session, "new_message": message(), **more}


def sync(runner: Any, **more: Any) -> list[Any]:
    return list(runner.run(**asked(**more)))


def awaited(runner: Any, **more: Any) -> list[Any]:
    async def main() -> list[Any]:
        return [event async for event in runner.run_async(**asked(**more))]

    return asyncio.run(main())


def streamed(runner: Any, **more: Any) -> list[Any]:
    return awaited(runner, run_config=RunConfig(streaming_mode=StreamingMode.SSE), **more)


def debugged(runner: Any) -> list[Any]:
    return asyncio.run(runner.run_debug("go", user_id="u", session_id="s", quiet=True))


RUNS = {"run": sync, "run_async": awaited, "sse": streamed, "run_debug": debugged}


def decorated(runner: Any, run: Any, **options: Any) -> list[Any]:
    """Run with the entrypoints of a runner decorated."""

    class Decorated:
        def __getattr__(self, name: str) -> Any:
            return guard_adk_agent(**options)(getattr(runner, name))

    return run(Decorated())


def entered(runner: Any, run: Any, **options: Any) -> list[Any]:
    """Run with the guard entered."""
    with guard_adk_agent(runner, **options) as guarded:
        return run(guarded)


WAYS = {"decorated": decorated, "entered": entered}


def texts(events: list[Any]) -> str:
    return "".join(part.text or "" for e in events if e.content and not e.partial for part in e.content.parts or [])


def results(events: list[Any]) -> list[Any]:
    return [r.response for event in events for r in event.get_function_responses()]


def ended(plane: Any) -> list[tuple[str, str]]:
    """Return name and ending of every call that was decided, in the order of the decisions; "" if it never ended."""
    endings = {e.task_id: e.status for e in plane.events(type="call.ended")}
    return [(e.name, endings.get(e.task_id, "")) for e in plane.events(type="call.decided")]
