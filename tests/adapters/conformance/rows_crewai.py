"""CrewAI: crews, flows and agents; sync, async, streamed, for each of many inputs, in a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, start
from crewai.tools import tool

from tappass import guard_crew, guard_crew_async
from tests.adapters.conformance.row import Job, Row


class Kickoff(Row):
    name = "crewai-kickoff"
    kind = "crew"

    def agent(self, job: Job, **more: Any) -> Agent:
        model = LLM(model="openai/scripted-1", base_url=f"{job.model.url}/v1", api_key="x", max_retries=0)
        tools = [tool(function.__name__)(function) for function in job.tools]
        return Agent(role="clerk", goal="help", backstory="none", tools=tools, llm=model, **more)

    def crew(self, job: Job, *, in_thread: bool = False, timeout_s: int | None = None, **more: Any) -> Crew:
        agent = self.agent(job, max_execution_time=timeout_s)
        task = Task(description=job.prompt, expected_output="an answer", agent=agent, async_execution=in_thread)
        return Crew(name="office", agents=[agent], tasks=[task], **more)

    def run(self, job: Job) -> str:
        return guard_crew(**job.asked)(self.crew(job).kickoff)().raw

    def awaited(self, job: Job, work: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            return await work()

        return asyncio.run(main())


class Entered(Kickoff):
    name = "crewai-entered"

    def run(self, job: Job) -> str:
        with guard_crew(self.kept(job), **job.asked) as guarded:
            return guarded.kickoff().raw

    def kept(self, job: Job) -> Crew:
        """Return the same crew for the same tools."""
        if job.keep.get("tools") != job.tools:
            job.keep.update(tools=job.tools, crew=self.crew(job))
        return job.keep["crew"]

    def fingerprint(self, job: Job) -> Any:
        crew = self.kept(job)
        return [(agent.llm, [(id(one), one.func) for one in agent.tools]) for agent in crew.agents], set(vars(crew))


class Copied(Kickoff):
    name = "crewai-copied"

    def run(self, job: Job) -> str:
        with guard_crew(self.crew(job), **job.asked) as guarded:
            return guarded.copy().kickoff().raw


class ForEach(Kickoff):
    name = "crewai-for-each"

    def run(self, job: Job) -> str:
        (output,) = guard_crew(**job.asked)(self.crew(job).kickoff_for_each)([{}])
        return output.raw


class Threaded(Kickoff):
    name = "crewai-kickoff-async"

    def run(self, job: Job) -> str:
        return self.awaited(job, guard_crew_async(**job.asked)(self.crew(job).kickoff_async)).raw


class Native(Kickoff):
    name = "crewai-akickoff"

    def run(self, job: Job) -> str:
        async def main() -> Any:
            async with guard_crew_async(self.crew(job), **job.asked) as guarded:
                return await guarded.akickoff()

        return self.awaited(job, main).raw


class AsyncForEach(Kickoff):
    name = "crewai-akickoff-for-each"

    def run(self, job: Job) -> str:
        async def main() -> Any:
            return await guard_crew_async(**job.asked)(self.crew(job).akickoff_for_each)([{}])

        (output,) = self.awaited(job, main)
        return output.raw


class Streamed(Kickoff):
    name = "crewai-stream"

    def run(self, job: Job) -> str:
        with guard_crew(self.crew(job, stream=True), **job.asked) as guarded:
            stream = guarded.kickoff()
        # After the block.
        list(stream)
        return stream.result.raw


class AsyncStreamed(Kickoff):
    name = "crewai-stream-async"

    def run(self, job: Job) -> str:
        async def main() -> Any:
            stream = await guard_crew_async(**job.asked)(self.crew(job, stream=True).akickoff)()
            async for _ in stream:
                pass
            return stream.result

        return self.awaited(job, main).raw


class InThread(Kickoff):
    name = "crewai-task-in-thread"

    def run(self, job: Job) -> str:
        return guard_crew(**job.asked)(self.crew(job, in_thread=True).kickoff)().raw


class Timed(Kickoff):
    name = "crewai-agent-with-time-limit"

    def run(self, job: Job) -> str:
        return guard_crew(**job.asked)(self.crew(job, timeout_s=60).kickoff)().raw


class InFlow(Kickoff):
    name = "crewai-flow"

    def run(self, job: Job) -> str:
        crew = self.crew(job)

        class Office(Flow[Any]):
            @start()
            def work(self) -> str:
                return str(crew.kickoff().raw)

        return guard_crew(**job.asked)(Office().kickoff)()


class Alone(Kickoff):
    name = "crewai-agent"

    def run(self, job: Job) -> str:
        return guard_crew(**job.asked)(self.agent(job).kickoff)(job.prompt).raw


class AloneAsync(Kickoff):
    name = "crewai-agent-async"

    def run(self, job: Job) -> str:
        async def main() -> Any:
            return await guard_crew_async(**job.asked)(self.agent(job).kickoff_async)(job.prompt)

        return self.awaited(job, main).raw


ROWS: list[Row] = [
    Kickoff(),
    Entered(),
    Copied(),
    ForEach(),
    Threaded(),
    Native(),
    AsyncForEach(),
    Streamed(),
    AsyncStreamed(),
    InThread(),
    Timed(),
    InFlow(),
    Alone(),
    AloneAsync(),
]
