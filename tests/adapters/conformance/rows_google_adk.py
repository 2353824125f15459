"""Google ADK: a runner's run, run_async, streamed over SSE, run_debug, an agent alone; paused and resumed."""

from __future__ import annotations

import os
from typing import Any

import anyio
from google.adk.agents import LlmAgent, RunConfig
from google.adk.agents.run_config import StreamingMode
from google.adk.models import Gemini
from google.adk.plugins.plugin_manager import PluginManager
from google.adk.runners import InMemoryRunner
from google.genai import types

import tests.adapters.scripted_gemini
from tappass import guard_adk_agent, guard_adk_agent_async
from tests.adapters.conformance.row import Job, Row

assert tests.adapters.scripted_gemini

CONFIRM = "adk_request_confirmation"


def runner_of(job: Job) -> Any:
    """Return the job's runner: the same again for a run that goes on, its model made for the event loop of the run."""
    # Taken from tests before they begin; the client insists on one.
    os.environ["GOOGLE_API_KEY"] = "x"
    model = Gemini(model="scripted-1", base_url=job.model.url)
    if "runner" not in job.keep:
        agent = LlmAgent(name="helper", model=model, instruction="help", tools=list(job.tools))
        job.keep["runner"] = runner = InMemoryRunner(agent=agent, app_name="app")
        runner.auto_create_session = True
    job.keep["runner"].agent.model = model
    return job.keep["runner"]


class Adk(Row):
    kind = "run"
    pauses = True
    config: Any = None

    def events(self, runner: Any, job: Job, given: dict[str, Any]) -> list[Any]:
        """Run, guarded."""
        raise NotImplementedError

    def run(self, job: Job) -> str:
        job.keep.pop("runner", None) if job.keep.get("tools") != job.tools else None
        job.keep["tools"] = job.tools
        return self._run(job, types.Part(text=job.prompt))

    def resume(self, job: Job, token: str) -> str:
        response = types.FunctionResponse(name=CONFIRM, id=job.keep["confirm"], response={"confirmed": True})
        return self._run(job, types.Part(function_response=response))

    def _run(self, job: Job, part: Any) -> str:
        given = {"user_id": "u", "session_id": "s", "new_message": types.Content(role="user", parts=[part])}
        if self.config is not None:
            given["run_config"] = self.config
        events = self.events(runner_of(job), job, given)
        for event in events:
            for call in event.get_function_calls():
                if call.name == CONFIRM:
                    job.keep["confirm"] = call.id
                    job.keep["resume_token"] = call.args["toolConfirmation"]["payload"]["tappass"]["resume_token"]
        whole = [event for event in events if event.content and not event.partial]
        return "".join(part.text or "" for event in whole for part in event.content.parts or [])

    def fingerprint(self, job: Job) -> Any:
        runner = runner_of(job)
        job.keep["tools"] = job.tools
        put_on_them = ("generate_content_async" in vars(runner.agent.model), PluginManager.__init__)
        return [*runner.plugin_manager.plugins], put_on_them, [*runner.agent.tools], runner.agent.before_tool_callback


class Run(Adk):
    name = "adk-run"

    def events(self, runner: Any, job: Job, given: dict[str, Any]) -> list[Any]:
        return list(guard_adk_agent(**job.asked)(runner.run)(**given))


class Entered(Adk):
    name = "adk-entered"

    def events(self, runner: Any, job: Job, given: dict[str, Any]) -> list[Any]:
        with guard_adk_agent(runner, **job.asked) as guarded:
            return list(guarded.run(**given))


class RunAsync(Adk):
    name = "adk-run-async"

    def events(self, runner: Any, job: Job, given: dict[str, Any]) -> list[Any]:
        async def main() -> list[Any]:
            return [event async for event in guard_adk_agent_async(**job.asked)(runner.run_async)(**given)]

        return anyio.run(main)


class EnteredAsync(Adk):
    name = "adk-entered-async"

    def events(self, runner: Any, job: Job, given: dict[str, Any]) -> list[Any]:
        async def main() -> list[Any]:
            async with guard_adk_agent_async(runner, **job.asked) as guarded:
                return [event async for event in guarded.run_async(**given)]

        return anyio.run(main)


class Streamed(RunAsync):
    name = "adk-sse"
    config = RunConfig(streaming_mode=StreamingMode.SSE)


class Function(Adk):
    """A function of the user's that runs the runner it is given."""

    name = "adk-function"

    def events(self, runner: Any, job: Job, given: dict[str, Any]) -> list[Any]:
        def work(runner: Any) -> list[Any]:
            return list(runner.run(**given))

        return guard_adk_agent(**job.asked)(work)(runner)  # type: ignore[no-any-return]


ROWS: list[Row] = [Run(), Entered(), RunAsync(), EnteredAsync(), Streamed(), Function()]
