"""A2A: an agent served over JSON-RPC and REST, streaming and not, that answers with a message or works on a task."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.to_thread
import httpx
from a2a.client import ClientConfig, create_client
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    Message,
    Part,
    Role,
    SendMessageRequest,
    Task,
    TaskState,
    TaskStatus,
)
from a2a.utils.errors import A2AError
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from tappass_adapters.a2a import CorrelationContextBuilder, JoiningExecutor, with_extension

from tappass import TapPassConnectionError
from tappass.ext import EXTENSION
from tests.adapters.conformance.looping import decision_of, work
from tests.adapters.conformance.row import Job, Row


class Talking(AgentExecutor):
    def __init__(self, job: Job) -> None:
        self.job = job

    async def execute(self, context: Any, event_queue: Any) -> None:
        said = await anyio.to_thread.run_sync(work, self.job)
        part = Part(text=said)
        message = Message(message_id="r", role=Role.ROLE_AGENT, parts=[part], context_id=context.context_id)
        await event_queue.enqueue_event(message)

    async def cancel(self, context: Any, event_queue: Any) -> None: ...


class Tasked(Talking):
    async def execute(self, context: Any, event_queue: Any) -> None:
        status = TaskStatus(state=TaskState.TASK_STATE_WORKING)
        task = Task(id=context.task_id, context_id=context.context_id, status=status, history=[context.message])
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.add_artifact([Part(text=await anyio.to_thread.run_sync(work, self.job))])
        await updater.complete()


class Agent(Row):
    """The caller's session is not governed here: each message's work has one of its own."""

    told = False
    kind = "task"

    def __init__(self, name: str, binding: str, executor: type[Talking], *, streaming: bool) -> None:
        self.name = f"a2a-{name}"
        self._binding, self._executor, self._streaming = binding, executor, streaming

    def card(self) -> AgentCard:
        address = AgentInterface(url="http://agent/rpc", protocol_binding=self._binding, protocol_version="1.0")
        return with_extension(
            AgentCard(
                name="agent",
                description="d",
                version="1",
                supported_interfaces=[address],
                capabilities=AgentCapabilities(streaming=True),
                default_input_modes=["text/plain"],
                default_output_modes=["text/plain"],
                skills=[AgentSkill(id="s", name="s", description="s", tags=["x"])],
            )
        )

    def app(self, job: Job, card: AgentCard) -> Starlette:
        executor = JoiningExecutor(self._executor(job), card)
        handler = DefaultRequestHandler(
            agent_executor=executor,
            task_store=InMemoryTaskStore(),
            agent_card=card,
            request_context_builder=executor.contexts,
        )
        builder = CorrelationContextBuilder()
        if self._binding == "JSONRPC":
            return Starlette(routes=create_jsonrpc_routes(handler, rpc_url="/rpc", context_builder=builder))
        return Starlette(routes=create_rest_routes(handler, context_builder=builder, path_prefix="/rpc"))

    async def _events(self, job: Job) -> list[Any]:
        card = self.card()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app(job, card)), timeout=60) as http:
            config = ClientConfig(
                streaming=self._streaming, supported_protocol_bindings=[self._binding], httpx_client=http
            )
            client = await create_client(card, config, interceptors=[])
            message = Message(message_id="m", role=Role.ROLE_USER, parts=[Part(text=job.prompt)])
            return [event async for event in client.send_message(SendMessageRequest(message=message))]

    def run(self, job: Job) -> str:
        try:
            events = anyio.run(self._events, job)
        except A2AError as error:
            data = _told(error)
            if data.get("code") == "plane_unavailable":
                raise TapPassConnectionError(str(error)) from error
            raise decision_of(data) from error
        said = ""
        for event in events:
            if event.HasField("message"):
                said = event.message.parts[0].text
            for artifact in [*event.task.artifacts, event.artifact_update.artifact]:
                said = artifact.parts[0].text if artifact.parts else said
            for status in (event.task.status, event.status_update.status):
                if status.state == TaskState.TASK_STATE_INPUT_REQUIRED:
                    raise decision_of(MessageToDict(status.message.metadata)[EXTENSION])
        return said


def _told(error: A2AError) -> dict[str, Any]:
    """Return the texts that came with an error; where they lie in its data changed between versions."""
    data = error.data
    while isinstance(data, list):
        data = data[0]
    data = data if isinstance(data, dict) else json.loads(str(data))
    return data.get("metadata", data)


ROWS = [
    Agent("jsonrpc", "JSONRPC", Talking, streaming=False),
    Agent("jsonrpc-stream-task", "JSONRPC", Tasked, streaming=True),
    Agent("rest-task", "HTTP+JSON", Tasked, streaming=False),
    Agent("rest-stream", "HTTP+JSON", Talking, streaming=True),
]
