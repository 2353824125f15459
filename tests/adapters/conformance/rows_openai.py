"""Loops around the official client: responses and chat completions; sync, async, streamed; the user runs the tools."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import anyio
from openai import AsyncOpenAI, OpenAI

from tappass import guard_openai_run, guard_openai_run_async
from tests.adapters import (
    scripted_responses,  # noqa: F401  a protocol of the scripted model
    scripted_threads,  # noqa: F401  another
)
from tests.adapters.conformance.row import Job, Row

KINDS = {"str": "string", "int": "integer"}


def schema(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    properties = {name: {"type": KINDS[str(one.annotation)]} for name, one in parameters.items()}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def described(function: Callable[..., Any]) -> dict[str, Any]:
    return {"name": function.__name__, "description": inspect.getdoc(function), "parameters": schema(function)}


def call(job: Job, name: str, arguments: str) -> str:
    return str({tool.__name__: tool for tool in job.tools}[name](**json.loads(arguments)))


def client(job: Job, kind: Any = OpenAI) -> Any:
    return kind(base_url=f"{job.model.url}/v1", api_key="x", max_retries=0)


class Loop(Row):
    kind = "run"

    def run(self, job: Job) -> str:
        with client(job) as given, guard_openai_run(given, **job.asked) as guarded:
            return self.loop(job, guarded)

    def loop(self, job: Job, guarded: Any) -> str:
        raise NotImplementedError


class Responses(Loop):
    """The whole conversation is sent each time."""

    name = "responses"

    def offered(self, job: Job) -> list[dict[str, Any]]:
        return [{"type": "function", "strict": True, **described(function)} for function in job.tools]

    def ask(self, job: Job, guarded: Any, given: Any, **more: Any) -> Any:
        return guarded.responses.create(model="scripted-1", input=given, tools=self.offered(job), **more)

    def loop(self, job: Job, guarded: Any) -> str:
        given: list[Any] = [{"role": "user", "content": job.prompt}]
        while True:
            answer = self.ask(job, guarded, given)
            wanted = [item for item in answer.output if item.type == "function_call"]
            if not wanted:
                return str(answer.output_text)
            given += answer.output
            given += [self.output(job, item) for item in wanted]

    def output(self, job: Job, item: Any) -> dict[str, Any]:
        return {
            "type": "function_call_output",
            "call_id": item.call_id,
            "output": call(job, item.name, item.arguments),
        }


class Chained(Responses):
    """The server keeps the conversation."""

    name = "responses-previous-response"

    def loop(self, job: Job, guarded: Any) -> str:
        answer = self.ask(job, guarded, job.prompt)
        while wanted := [item for item in answer.output if item.type == "function_call"]:
            answer = self.ask(job, guarded, [self.output(job, item) for item in wanted], previous_response_id=answer.id)
        return str(answer.output_text)


class Streamed(Responses):
    name = "responses-stream-true"

    def ask(self, job: Job, guarded: Any, given: Any, **more: Any) -> Any:
        with super().ask(job, guarded, given, stream=True, **more) as stream:
            return [event for event in stream if event.type == "response.completed"][-1].response


class Managed(Responses):
    name = "responses-stream"

    def ask(self, job: Job, guarded: Any, given: Any, **more: Any) -> Any:
        with guarded.responses.stream(model="scripted-1", input=given, tools=self.offered(job), **more) as stream:
            return stream.get_final_response()


class Parsed(Responses):
    name = "responses-parse"

    def ask(self, job: Job, guarded: Any, given: Any, **more: Any) -> Any:
        return guarded.responses.parse(model="scripted-1", input=given, tools=self.offered(job), **more)


class Decorated(Responses):
    name = "responses-function"

    def run(self, job: Job) -> str:
        @guard_openai_run(**job.asked)
        def work(job: Job, client: OpenAI) -> str:
            return self.loop(job, client)

        with client(job) as given:
            return work(job, given)


class Reconfigured(Responses):
    name = "responses-with-options"

    def loop(self, job: Job, guarded: Any) -> str:
        return super().loop(job, guarded.with_options(timeout=30).copy(max_retries=0))


class Async(Responses):
    name = "responses-async"

    def run(self, job: Job) -> str:
        async def main() -> str:
            async with client(job, AsyncOpenAI) as given, guard_openai_run_async(given, **job.asked) as guarded:
                return await self.aloop(job, guarded)

        return anyio.run(main)

    async def aloop(self, job: Job, guarded: Any) -> str:
        given: list[Any] = [{"role": "user", "content": job.prompt}]
        while True:
            answer = await self.aask(job, guarded, given)
            wanted = [item for item in answer.output if item.type == "function_call"]
            if not wanted:
                return str(answer.output_text)
            given += answer.output
            given += [self.output(job, item) for item in wanted]

    async def aask(self, job: Job, guarded: Any, given: Any) -> Any:
        return await self.ask(job, guarded, given)


class AsyncStreamed(Async):
    name = "responses-async-stream"

    async def aask(self, job: Job, guarded: Any, given: Any) -> Any:
        async with await self.ask(job, guarded, given, stream=True) as stream:
            return [event async for event in stream if event.type == "response.completed"][-1].response


class Chat(Loop):
    name = "chat-completions"

    def ask(self, job: Job, guarded: Any, messages: Any, **more: Any) -> Any:
        tools = [{"type": "function", "function": described(function)} for function in job.tools]
        return guarded.chat.completions.create(model="scripted-1", messages=messages, tools=tools, **more)

    def answer(self, job: Job, guarded: Any, messages: Any) -> tuple[str, list[tuple[str, str, str]]]:
        message = self.ask(job, guarded, messages).choices[0].message
        wanted = [(one.id, one.function.name, one.function.arguments) for one in message.tool_calls or ()]
        return message.content, wanted

    def loop(self, job: Job, guarded: Any) -> str:
        messages: list[Any] = [{"role": "user", "content": job.prompt}]
        while True:
            text, wanted = self.answer(job, guarded, messages)
            if not wanted:
                return text
            messages.append(
                {
                    "role": "assistant",
                    "content": text,
                    "tool_calls": [
                        {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
                        for id_, name, arguments in wanted
                    ],
                }
            )
            for id_, name, arguments in wanted:
                messages.append({"role": "tool", "tool_call_id": id_, "content": call(job, name, arguments)})


class ChatStreamed(Chat):
    name = "chat-completions-stream"

    def answer(self, job: Job, guarded: Any, messages: Any) -> tuple[str, list[tuple[str, str, str]]]:
        text, calls = "", {}
        for chunk in self.ask(job, guarded, messages, stream=True, stream_options={"include_usage": True}):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                for part in choice.delta.tool_calls or ():
                    one = calls.setdefault(part.index, [part.id, part.function.name, ""])
                    one[2] += part.function.arguments
        return text, [tuple(one) for one in calls.values()]


class Threads(Loop):
    """The Assistants API, of servers that still have it."""

    name = "threads"

    def loop(self, job: Job, guarded: Any) -> str:
        tools = [{"type": "function", "function": described(function)} for function in job.tools]
        threads = guarded.beta.threads
        thread = threads.create()
        threads.messages.create(thread.id, role="user", content=job.prompt)
        where = {"thread_id": thread.id, "poll_interval_ms": 1}
        run = threads.runs.create_and_poll(assistant_id="asst_1", tools=tools, **where)
        while run.status == "requires_action":
            outputs = [
                {"tool_call_id": one.id, "output": call(job, one.function.name, one.function.arguments)}
                for one in run.required_action.submit_tool_outputs.tool_calls
            ]
            run = threads.runs.submit_tool_outputs_and_poll(run_id=run.id, tool_outputs=outputs, **where)
        (said,) = threads.messages.list(thread.id, run_id=run.id)
        return str(said.content[0].text.value)


class AsyncThreads(Threads):
    name = "threads-async"

    def run(self, job: Job) -> str:
        async def main() -> str:
            async with client(job, AsyncOpenAI) as given, guard_openai_run_async(given, **job.asked) as guarded:
                return await self.aloop(job, guarded)

        return anyio.run(main)

    async def aloop(self, job: Job, guarded: Any) -> str:
        tools = [{"type": "function", "function": described(function)} for function in job.tools]
        threads = guarded.beta.threads
        thread = await threads.create()
        await threads.messages.create(thread.id, role="user", content=job.prompt)
        run = await threads.runs.create(thread.id, assistant_id="asst_1", tools=tools)
        while True:
            run = await threads.runs.poll(run.id, thread.id, poll_interval_ms=1)
            if run.status != "requires_action":
                break
            outputs = [
                {"tool_call_id": one.id, "output": call(job, one.function.name, one.function.arguments)}
                for one in run.required_action.submit_tool_outputs.tool_calls
            ]
            run = await threads.runs.submit_tool_outputs(run.id, thread_id=thread.id, tool_outputs=outputs)
        (said,) = [one async for one in threads.messages.list(thread.id, run_id=run.id)]
        return str(said.content[0].text.value)


ROWS: list[Row] = [
    Responses(),
    Chained(),
    Streamed(),
    Managed(),
    Parsed(),
    Decorated(),
    Reconfigured(),
    Async(),
    AsyncStreamed(),
    Chat(),
    ChatStreamed(),
    Threads(),
    AsyncThreads(),
]
