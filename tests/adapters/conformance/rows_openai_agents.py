"""The Agents SDK: run, run_sync, run_streamed; over both of its protocols; paused and resumed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anyio
from agents import Agent, OpenAIProvider, RunConfig, Runner, RunState, function_tool
from openai import AsyncOpenAI

from tappass import guard_openai_run, guard_openai_run_async
from tests.adapters import scripted_responses  # noqa: F401  a protocol of the scripted model
from tests.adapters.conformance.row import Job, Row


class Agents(Row):
    kind = "run"
    pauses = True
    responses = True

    def agent(self, job: Job) -> Agent[Any]:
        tools = [function_tool(function, failure_error_function=None) for function in job.tools]
        return Agent(name="clerk", instructions="do it", model="scripted-1", tools=tools)

    def config(self, job: Job) -> RunConfig:
        client = AsyncOpenAI(base_url=f"{job.model.url}/v1", api_key="x", max_retries=0)
        job.keep.setdefault("clients", []).append(client)
        provider = OpenAIProvider(openai_client=client, use_responses=self.responses)
        return RunConfig(model_provider=provider, tracing_disabled=True)

    async def go(self, job: Job, agent: Agent[Any], given: Any) -> Any:
        return await guard_openai_run_async(**job.asked)(Runner.run)(agent, given, run_config=self.config(job))

    async def closing(self, job: Job, agent: Agent[Any], given: Any) -> Any:
        try:
            return await self.go(job, agent, given)
        finally:
            for client in job.keep.pop("clients", ()):
                await client.close()

    def ends(self, job: Job, agent: Agent[Any], result: Any) -> str:
        for item in result.interruptions:
            job.keep["resume_token"] = item.raw_item.tappass["resume_token"]
        job.keep["agent"], job.keep["result"] = agent, result
        return str(result.final_output)

    def run(self, job: Job) -> str:
        agent = self.agent(job)
        return self.ends(job, agent, anyio.run(self.closing, job, agent, job.prompt))

    def resume(self, job: Job, token: str) -> str:
        async def main() -> Any:
            state = job.keep["result"].to_state()
            for item in state.get_interruptions():
                state.approve(item)
            return await self.closing(job, job.keep["agent"], state)

        return self.ends(job, job.keep["agent"], anyio.run(main))


class Run(Agents):
    name = "agents-run"


class Chat(Agents):
    name = "agents-run-chat-completions"
    responses = False


class Entered(Agents):
    name = "agents-entered"

    async def go(self, job: Job, agent: Agent[Any], given: Any) -> Any:
        async with guard_openai_run_async(agent, **job.asked) as guarded:
            return await Runner.run(guarded, given, run_config=self.config(job))


class Ambient(Agents):
    """A user's own function that runs what it likes."""

    name = "agents-function"

    async def go(self, job: Job, agent: Agent[Any], given: Any) -> Any:
        @guard_openai_run_async(**job.asked)
        async def work() -> Any:
            return await Runner.run(agent, given, run_config=self.config(job))

        return await work()


class Streamed(Agents):
    name = "agents-run-streamed"

    async def go(self, job: Job, agent: Agent[Any], given: Any) -> Any:
        run = guard_openai_run(**job.asked)(Runner.run_streamed)
        result = run(agent, given, run_config=self.config(job))
        async for _event in result.stream_events():
            pass
        return result


class Sync(Agents):
    name = "agents-run-sync"

    def run(self, job: Job) -> str:
        agent = self.agent(job)
        run = guard_openai_run(**job.asked)(Runner.run_sync)
        # The loop that the SDK would find, or make and leave open.
        asyncio.set_event_loop(loop := asyncio.new_event_loop())
        try:
            return self.ends(job, agent, run(agent, job.prompt, run_config=self.config(job)))
        finally:
            for client in job.keep.pop("clients", ()):
                loop.run_until_complete(client.close())
            loop.close()
            asyncio.set_event_loop(None)


class Restarted(Agents):
    """Goes on from a serialised state, as another process would, with an agent of its own."""

    name = "agents-resumed-elsewhere"

    def resume(self, job: Job, token: str) -> str:
        async def main() -> Any:
            agent = self.agent(job)
            text = json.dumps(json.loads(job.keep["result"].to_state().to_string()))
            state = await RunState.from_string(agent, text)
            for item in state.get_interruptions():
                assert item.raw_item.tappass["resume_token"] == token
                state.approve(item)
            return await self.closing(job, agent, state)

        return self.ends(job, job.keep["agent"], anyio.run(main))


ROWS: list[Row] = [Run(), Chat(), Entered(), Ambient(), Streamed(), Sync(), Restarted()]
