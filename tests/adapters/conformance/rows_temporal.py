"""Temporal: an agent whose tools are activities, each called by an update; resumed by another worker."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import inspect
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateStage
from temporalio.worker import Worker

from tappass import TapPassPlugin, tappass_session_async
from tests.adapters.conformance.row import Job, Row
from tests.adapters.scripted import MODEL
from tests.adapters.temporal.conversation import Conversation
from tests.adapters.temporal.servers import SANDBOX, development_server

_starting = threading.Lock()


@functools.cache
def address() -> str:
    """Return where a Temporal server listens that lives as long as this process."""
    opened = contextlib.ExitStack()
    atexit.register(opened.close)
    return opened.enter_context(development_server())


def defined(function: Callable[..., Any]) -> Callable[..., Any]:
    marked = hasattr(function, "__temporal_activity_definition")
    return function if marked else activity.defn(name=function.__name__)(function)


class Held(Exception):
    """People are asked: the worker may go."""


class Agent(Row):
    name = "temporal"
    models = ""
    pauses = True
    told = False
    kind = "workflow"

    def run(self, job: Job) -> str:
        with _starting:
            address()
        return asyncio.run(self._run(job))

    async def _run(self, job: Job) -> str:
        # As an application would: its own session, and the execution's beneath it.
        async with tappass_session_async(name="request"), self._worker(job) as (client, queue):
            handle = await client.start_workflow(Conversation.run, id=f"agent-{uuid4().hex}", task_queue=queue)
            job.keep |= {"id": handle.id, "queue": queue, "messages": [{"role": "user", "content": job.prompt}]}
            return await self._held(job, handle)

    def resume(self, job: Job, token: str) -> str:
        return asyncio.run(self._resume(job))

    async def _resume(self, job: Job) -> str:
        async with self._worker(job) as (client, _):
            return await self._held(job, client.get_workflow_handle(job.keep["id"]))

    @contextlib.asynccontextmanager
    async def _worker(self, job: Job) -> AsyncIterator[tuple[Client, str]]:
        client = await Client.connect(address(), plugins=[TapPassPlugin(approval_poll_s=0.1)])
        queue = job.keep.get("queue") or f"queue-{uuid4().hex}"
        with ThreadPoolExecutor(4) as threads:
            activities = [defined(function) for function in job.tools]
            options: dict[str, Any] = {"activities": activities, "activity_executor": threads}
            options["workflow_runner"] = SANDBOX
            async with Worker(client, task_queue=queue, workflows=[Conversation], **options):
                yield client, queue

    async def _held(self, job: Job, handle: WorkflowHandle[Any, Any]) -> str:
        try:
            return await self._converse(job, handle)
        except Held:
            return ""
        except Exception:
            await handle.cancel()
            with contextlib.suppress(WorkflowFailureError):
                await handle.result()
            raise

    async def _converse(self, job: Job, handle: WorkflowHandle[Any, Any]) -> str:
        messages = job.keep["messages"]
        while True:
            if not (asked := messages[-1].get("tool_calls")):
                messages.append(said := await self._ask(job, messages))
                if not (asked := said.get("tool_calls")):
                    await handle.signal(Conversation.end)
                    await handle.result()
                    return str(said["content"])
            results = await asyncio.gather(*(self._call(job, handle, each) for each in asked))
            for each, result in zip(asked, results, strict=True):
                messages.append({"role": "tool", "tool_call_id": each["id"], "content": result})

    async def _ask(self, job: Job, messages: list[Any]) -> dict[str, Any]:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(
                f"{job.model.url}/v1/chat/completions", json={"model": MODEL, "messages": messages}
            )
        return dict(answer.raise_for_status().json()["choices"][0]["message"])

    async def _call(self, job: Job, handle: WorkflowHandle[Any, Any], asked: dict[str, Any]) -> str:
        name, given = asked["function"]["name"], json.loads(asked["function"]["arguments"])
        (function,) = [tool for tool in job.tools if tool.__name__ == name]
        args = list(inspect.signature(function).bind(**given).args)
        # By the call's own id: asked for again, it is the same update.
        update = await handle.start_update(
            Conversation.call, args=[name, args], id=asked["id"], wait_for_stage=WorkflowUpdateStage.ACCEPTED
        )
        result = asyncio.ensure_future(update.result())
        again = "resume_token" in job.keep
        while not (await asyncio.wait([result], timeout=0.05))[0]:
            if not again and (waits := await handle.query("tappass_waiting")):
                result.cancel()
                job.keep["resume_token"] = waits[0]["approval_url"]
                raise Held
        return str(await result)


ROWS = [Agent()]
