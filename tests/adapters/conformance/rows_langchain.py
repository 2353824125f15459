"""LangChain and LangGraph: the classic executor and `create_agent`; sync, async, streamed, in batches, resumed."""

from __future__ import annotations

from typing import Any

import anyio
import openai
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from tappass import guard_agent, guard_agent_async
from tests.adapters.conformance.row import Job, Row

PROMPT = ChatPromptTemplate.from_messages([("human", "{input}"), ("placeholder", "{agent_scratchpad}")])


def chat(job: Job) -> ChatOpenAI:
    # A client of its own: LangChain keeps one a process, whatever became of the event loop it was made on.
    client = openai.DefaultAsyncHttpxClient()
    return ChatOpenAI(
        model="scripted-1", base_url=f"{job.model.url}/v1", api_key="x", max_retries=0, http_async_client=client
    )


def tools_of(job: Job) -> list[StructuredTool]:
    return [StructuredTool.from_function(function) for function in job.tools]


class Graph(Row):
    kind = "graph"

    def graph(self, job: Job, **more: Any) -> Any:
        return create_agent(chat(job), tools_of(job), **more)

    def given(self, job: Job) -> Any:
        return {"messages": [("user", job.prompt)]}

    def last(self, state: Any) -> str:
        return str(state["messages"][-1].content)


class Invoke(Graph):
    name = "langgraph-invoke"

    def run(self, job: Job) -> str:
        return self.last(guard_agent(**job.asked)(self.graph(job).invoke)(self.given(job)))


class Entered(Graph):
    name = "langgraph-entered"

    def run(self, job: Job) -> str:
        with guard_agent(self.graph(job), **job.asked) as guarded:
            return self.last(guarded.invoke(self.given(job)))


class Stream(Graph):
    name = "langgraph-stream"

    def run(self, job: Job) -> str:
        *_, last = guard_agent(**job.asked)(self.graph(job).stream)(self.given(job), stream_mode="values")
        return self.last(last)


class Ainvoke(Graph):
    name = "langgraph-ainvoke"

    def run(self, job: Job) -> str:
        async def main() -> str:
            return self.last(await guard_agent_async(**job.asked)(self.graph(job).ainvoke)(self.given(job)))

        return anyio.run(main)


class Astream(Graph):
    name = "langgraph-astream"

    def run(self, job: Job) -> str:
        async def main() -> str:
            async with guard_agent_async(self.graph(job), **job.asked) as guarded:
                states = [s async for s in guarded.astream(self.given(job), stream_mode="values")]
            return self.last(states[-1])

        return anyio.run(main)


class Batch(Graph):
    name = "langgraph-batch"

    def run(self, job: Job) -> str:
        (state,) = guard_agent(**job.asked)(self.graph(job).batch)([self.given(job)])
        return self.last(state)


class Configured(Graph):
    name = "langgraph-with-config-in-a-sequence"

    def run(self, job: Job) -> str:
        chain = self.graph(job).with_config({"tags": ["mine"]}) | (lambda state: state)
        return self.last(guard_agent(**job.asked)(chain.invoke)(self.given(job)))


class Interrupted(Graph):
    """A graph with a checkpointer pauses, and goes on from there."""

    name = "langgraph-interrupted"
    pauses = True

    def config(self, job: Job) -> Any:
        return {"configurable": {"thread_id": str(id(job.keep))}}

    def run(self, job: Job) -> str:
        graph = job.keep["graph"] = self.graph(job, checkpointer=InMemorySaver())
        state = guard_agent(**job.asked)(graph.invoke)(self.given(job), self.config(job))
        for pending in state.get("__interrupt__", ()):
            job.keep["resume_token"] = pending.value["resume_token"]
        return self.last(state)

    def resume(self, job: Job, token: str) -> str:
        graph = job.keep["graph"]
        return self.last(guard_agent(**job.asked)(graph.invoke)(Command(resume="go on"), self.config(job)))


class Ambient(Graph):
    """A user's own function that makes and runs what it likes: only the handler is there."""

    name = "langchain-function"
    told = False
    redacts = False

    def run(self, job: Job) -> str:
        @guard_agent(**job.asked)
        def work() -> str:
            return self.last(self.graph(job).invoke(self.given(job)))

        return work()


class Executor(Row):
    name = "langchain-executor"
    kind = "graph"

    def executor(self, job: Job) -> AgentExecutor:
        tools = tools_of(job)
        return AgentExecutor(agent=create_tool_calling_agent(chat(job), tools, PROMPT), tools=tools)

    def run(self, job: Job) -> str:
        return str(guard_agent(**job.asked)(self.executor(job).invoke)({"input": job.prompt})["output"])


class AsyncExecutor(Executor):
    name = "langchain-executor-async"

    def run(self, job: Job) -> str:
        async def main() -> str:
            run = guard_agent_async(**job.asked)(self.executor(job).ainvoke)
            return str((await run({"input": job.prompt}))["output"])

        return anyio.run(main)


class StreamedExecutor(Executor):
    name = "langchain-executor-stream"

    def run(self, job: Job) -> str:
        with guard_agent(self.executor(job), **job.asked) as guarded:
            *_, last = guarded.stream({"input": job.prompt})
        return str(last["output"])


ROWS: list[Row] = [
    Invoke(),
    Entered(),
    Stream(),
    Ainvoke(),
    Astream(),
    Batch(),
    Configured(),
    Interrupted(),
    Ambient(),
    Executor(),
    AsyncExecutor(),
    StreamedExecutor(),
]
