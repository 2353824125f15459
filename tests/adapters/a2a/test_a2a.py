"""Agents of a2a-sdk over loopback: JSON-RPC and REST, streaming and not, messages, tasks and artifacts."""

import contextlib
import threading
import time

import anyio
import anyio.lowlevel
import httpx
import pytest
import uvicorn
from a2a.client import ClientCallContext, ClientConfig, create_client
from a2a.client.errors import A2AClientError
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    CancelTaskRequest,
    GetTaskRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    Task,
    TaskState,
    TaskStatus,
)
from a2a.utils.errors import A2AError
from starlette.applications import Starlette
from tappass_adapters.a2a import (
    CorrelationContextBuilder,
    CorrelationInterceptor,
    JoiningExecutor,
    correlation_extension,
    with_extension,
)

from tappass import CorrelationRefused, current_session, tappass_session, tool, with_correlation
from tappass.ext import EXTENSION, METADATA
from tests.people import ADA
from tests.serving import free_port

JSONRPC, REST = "JSONRPC", "HTTP+JSON"
HEADER = "tappass-correlation"


class Answering(AgentExecutor):
    """Answers with one message: which session it ran in, and which one that is beneath."""

    def __init__(self, work=None):
        self.work = work or (lambda: None)
        self.ran = 0

    async def execute(self, context, event_queue):
        self.ran += 1
        self.work()
        session = current_session()
        text = f"{session.session_id} {session.parent}"
        await event_queue.enqueue_event(
            Message(message_id="r", role=Role.ROLE_AGENT, parts=[Part(text=text)], context_id=context.context_id)
        )

    async def cancel(self, context, event_queue):
        raise NotImplementedError


class Working(Answering):
    """Works on a task: an artifact in two pieces, then done."""

    async def execute(self, context, event_queue):
        self.ran += 1
        if context.current_task is None:
            status = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
            task = Task(id=context.task_id, context_id=context.context_id, status=status, history=[context.message])
            await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        self.work()
        for last in (False, True):
            part = Part(text=current_session().parent)
            await updater.add_artifact([part], artifact_id="a", append=last, last_chunk=last)
            await anyio.lowlevel.checkpoint()
        await updater.complete()


class Store(InMemoryTaskStore):
    """Knows whether anything was ever put into it."""

    saved = 0

    async def save(self, *args, **kwargs):
        self.saved += 1
        return await super().save(*args, **kwargs)


async def eventually(found):
    """Wait for something that another thread does; return it."""
    with anyio.fail_after(20):
        while not (value := found()):  # noqa: ASYNC110 - of another event loop
            await anyio.sleep(0.005)
    return value


class Place:
    """An agent that is served."""

    def __init__(self, executor, *, binding=JSONRPC, declared=True, contexts=True, plain=False, **options):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.binding = binding
        address = self.url + ("/rpc" if binding == JSONRPC else "")
        card = AgentCard(
            name="billing",
            description="d",
            version="1",
            supported_interfaces=[AgentInterface(url=address, protocol_binding=binding, protocol_version="1.0")],
            capabilities=AgentCapabilities(streaming=True),
            default_input_modes=["text/plain"],
            default_output_modes=["text/plain"],
            skills=[AgentSkill(id="s", name="s", description="s", tags=["x"])],
        )
        self.card = with_extension(card) if declared else card
        self.store = Store()
        joining = JoiningExecutor(executor, self.card, **options)
        handler = DefaultRequestHandler(
            agent_executor=joining,
            task_store=self.store,
            agent_card=self.card,
            **({"request_context_builder": joining.contexts} if contexts else {}),
        )
        builder = {} if plain else {"context_builder": CorrelationContextBuilder()}
        routes = create_agent_card_routes(self.card)
        if binding == JSONRPC:
            routes += create_jsonrpc_routes(handler, rpc_url="/rpc", **builder)
        else:
            routes += create_rest_routes(handler, **builder)
        self.app = Starlette(routes=routes)

    @contextlib.contextmanager
    def up(self):
        server = uvicorn.Server(uvicorn.Config(self.app, port=self.port, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.005)
            yield self
        finally:
            server.should_exit = True
            thread.join(20)

    async def client(self, *, streaming=False, interceptors=None, **options):
        config = ClientConfig(streaming=streaming, supported_protocol_bindings=[self.binding], **options)
        given = [CorrelationInterceptor()] if interceptors is None else interceptors
        return await create_client(self.url, config, interceptors=given)

    async def send(self, request=None, *, streaming=False, interceptors=None, context=None):
        client = await self.client(streaming=streaming, interceptors=interceptors)
        try:
            return [event async for event in client.send_message(request or message(), context=context)]
        finally:
            await client.close()


def message(text="hi", **fields):
    told = Message(message_id="m", role=Role.ROLE_USER, parts=[Part(text=text)], **fields)
    return SendMessageRequest(message=told)


def texts(events):
    return [event.message.parts[0].text for event in events if event.WhichOneof("payload") == "message"]


@pytest.fixture(params=[JSONRPC, REST])
def binding(request):
    return request.param


@pytest.mark.parametrize("streaming", [False, True])
def test_an_agents_work_runs_beneath_the_callers_session(binding, streaming, tappass_plane, audit_events):
    @tool
    def charge_by_agent():
        return "charged"

    async def scenario(place):
        async with tappass_session(name="order") as session:
            request = message()
            before = SendMessageRequest()
            before.CopyFrom(request)
            told = [texts(await place.send(request, streaming=streaming)) for _ in range(2)]
            assert request.metadata == before.metadata
            assert current_session() is session
            ((first,), (second,)) = told
            own, parent = first.split()
            assert first == second
            assert parent == session.session_id != own
            assert {call.session_id for call in audit_events(type="call.decided")} == {own}
            assert not audit_events(type="session.closed")

    with Place(Answering(charge_by_agent), binding=binding).up() as place:
        anyio.run(scenario, place)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_tasks_artifacts_are_made_in_the_session_to_its_end(binding, streaming, tappass_plane):
    async def scenario(place):
        async with tappass_session(name="order") as session:
            events = await place.send(streaming=streaming)
            if streaming:
                made = [event.artifact_update.artifact for event in events if event.HasField("artifact_update")]
                assert events[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED
            else:
                (event,) = events
                made = event.task.artifacts
                assert event.task.status.state == TaskState.TASK_STATE_COMPLETED
            assert {part.text for artifact in made for part in artifact.parts} == {session.session_id}

    with Place(Working(), binding=binding).up() as place:
        anyio.run(scenario, place)


def test_a_client_that_leaves_a_stream_does_not_take_the_agent_out_of_its_session(binding, tappass_plane):
    going_on, seen = threading.Event(), []

    class Slow(Working):
        async def execute(self, context, event_queue):
            status = TaskStatus(state=TaskState.TASK_STATE_WORKING)
            await event_queue.enqueue_event(Task(id=context.task_id, context_id=context.context_id, status=status))
            await anyio.to_thread.run_sync(going_on.wait)
            seen.append(current_session().parent)
            await TaskUpdater(event_queue, context.task_id, context.context_id).complete()

    async def scenario(place):
        async with tappass_session(name="order") as session:
            client = await place.client(streaming=True)
            stream = client.send_message(message())
            async for _event in stream:
                break
            await stream.aclose()
            await client.close()
            going_on.set()
            assert await eventually(lambda: seen) == [session.session_id]

    with Place(Slow(), binding=binding).up() as place:
        anyio.run(scenario, place)


def test_agents_in_parallel_never_mix(tappass_plane):
    async def one(place, number, wrong):
        async with tappass_session(name=str(number)) as session:
            for streaming in (False, True):
                (told,) = texts(await place.send(streaming=streaming))
                if told.split()[1] != session.session_id:
                    wrong.append(number)

    async def scenario(place):
        wrong = []
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, place, number, wrong)
        assert not wrong

    with Place(Answering()).up() as place:
        anyio.run(scenario, place)


def test_header_comes_first_then_the_requests_metadata_then_the_messages(binding, tappass_plane):
    async def scenario(place):
        sessions = [tappass_session(name=name) for name in ("header", "request", "message")]
        ids, tokens = [], []
        for unit in sessions:
            session = await unit.aopen()
            ids.append(session.session_id)
            tokens.append(session.stamp("billing"))
        request = message()
        request.metadata.update({METADATA: tokens[1]})
        request.message.metadata.update({METADATA: tokens[2]})
        context = ClientCallContext(service_parameters={HEADER: tokens[0]})
        for place_of, (sent, how) in enumerate(
            ((request, context), (request, None), (SendMessageRequest(message=request.message), None))
        ):
            (told,) = texts(await place.send(sent, interceptors=[], context=how))
            assert told.split()[1] == ids[place_of]

    with Place(Answering(), binding=binding).up() as place:
        anyio.run(scenario, place)


def test_a_token_is_sent_only_where_the_extension_is_declared_unless_asked(tappass_plane):
    async def scenario(place):
        async with tappass_session(name="order") as session:
            (told,) = texts(await place.send())
            assert told.split()[1:] == []
            (told,) = texts(await place.send(interceptors=[CorrelationInterceptor("billing", always=True)]))
            assert told.split()[1] == session.session_id

    with Place(Answering(), declared=False).up() as place:
        anyio.run(scenario, place)


def test_the_card_advertises_the_extension(tappass_plane):
    place = Place(Answering())
    with place.up():
        card = httpx.get(f"{place.url}/.well-known/agent-card.json", trust_env=False).json()
    (extension,) = card["capabilities"]["extensions"]
    assert extension["uri"] == EXTENSION
    assert with_extension(place.card) == place.card
    assert correlation_extension(required=True).required


def test_the_extension_is_activated_and_other_parameters_are_kept(tappass_plane):
    seen = []

    class Looking(Answering):
        async def execute(self, context, event_queue):
            headers = context.call_context.state["headers"]
            seen.append((context.requested_extensions, headers["x-mine"], list(context.message.extensions)))
            await super().execute(context, event_queue)

    async def scenario(place):
        async with tappass_session(name="order"):
            mine = {"x-mine": "1", "A2A-Extensions": "urn:mine"}
            context = ClientCallContext(service_parameters=mine)
            await place.send(context=context)
            assert context.service_parameters == {"x-mine": "1", "A2A-Extensions": "urn:mine"}

    with Place(Looking()).up() as place:
        anyio.run(scenario, place)
    assert seen == [({"urn:mine", EXTENSION}, "1", [EXTENSION])]


def refusals(session):
    token = session.stamp("billing")
    changed = token[:-10] + ("A" if token[-10] != "A" else "B") + token[-9:]
    return {"audience": session.stamp("elsewhere"), "signature": changed, "malformed": "x" * 5000}


@pytest.mark.parametrize("problem", ["audience", "signature", "malformed", "missing"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("where", ["header", "metadata"])
def test_a_token_that_does_not_hold_is_refused_before_any_task_is_touched(
    binding, problem, streaming, where, tappass_plane
):
    executor = Working()

    async def scenario(place):
        async with tappass_session(name="order") as session:
            token = refusals(session).get(problem)
            request, context = message(), None
            if token and where == "header":
                context = ClientCallContext(service_parameters={HEADER: token})
            elif token:
                request.metadata.update({METADATA: token})
            with pytest.raises((A2AError, A2AClientError)) as caught:
                await place.send(request, streaming=streaming, interceptors=[], context=context)
            assert "correlation token was refused" in str(caught.value)
            assert place.store.saved == 0
        assert executor.ran == 0

    with Place(executor, binding=binding, required=True).up() as place:
        anyio.run(scenario, place)


def test_a_header_that_comes_twice_is_refused(tappass_plane):
    with Place(Answering()).up() as place, tappass_session(name="order") as session:
        token = session.stamp("billing")
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": {
            "messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}}  # fmt: skip
        headers = [(HEADER, token), (HEADER, token), ("A2A-Version", "1.0")]
        answer = httpx.post(f"{place.url}/rpc", json=body, headers=headers, trust_env=False).json()
        assert "there is more than one" in answer["error"]["message"]
        # Where in the data it stands is the SDK's.
        assert "correlation_malformed" in str(answer["error"]["data"])


def test_a_follow_up_with_a_bad_token_leaves_the_task_as_it_is(tappass_plane):
    class Asking(Working):
        async def execute(self, context, event_queue):
            if context.current_task is not None:
                await super().execute(context, event_queue)
                return
            status = TaskStatus(state=TaskState.TASK_STATE_INPUT_REQUIRED)
            await event_queue.enqueue_event(Task(id=context.task_id, context_id=context.context_id, status=status))

    async def scenario(place):
        async with tappass_session(name="order") as session:
            (event,) = await place.send()
            follow_up = message(task_id=event.task.id, context_id=event.task.context_id)
            bad = ClientCallContext(service_parameters={HEADER: session.stamp("elsewhere")})
            with pytest.raises((A2AError, A2AClientError)):
                await place.send(follow_up, interceptors=[], context=bad)
            client = await place.client()
            task = await client.get_task(GetTaskRequest(id=event.task.id))
            assert task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
            await client.close()
            (event,) = await place.send(follow_up)
            assert event.task.status.state == TaskState.TASK_STATE_COMPLETED
            assert event.task.artifacts[0].parts[0].text == session.session_id

    with Place(Asking()).up() as place:
        anyio.run(scenario, place)


def test_without_the_context_builders_a_refusal_fails_the_task_and_nothing_runs(tappass_plane):
    executor = Answering()

    async def scenario(place):
        async with tappass_session(name="order") as session:
            (told,) = texts(await place.send())
            assert told.split()[1] == session.session_id
            bad = ClientCallContext(service_parameters={HEADER: session.stamp("elsewhere")})
            with pytest.raises((A2AError, A2AClientError), match="correlation token was refused"):
                await place.send(interceptors=[], context=bad)
        assert executor.ran == 1

    with Place(executor, contexts=False, plain=True).up() as place:
        anyio.run(scenario, place)


def test_without_a_token_the_work_has_a_session_of_its_own(tappass_plane, audit_events):
    async def scenario(place):
        (told,) = texts(await place.send(interceptors=[]))
        (own,) = told.split()
        (closed,) = await eventually(lambda: audit_events(type="session.closed", session_id=own))
        assert closed.status == "completed"

    with Place(Answering()).up() as place:
        anyio.run(scenario, place)


def test_a_refused_call_is_an_error_with_its_name(binding, tappass_plane):
    tappass_plane.policy("version: 1\nrules: [{id: never, tool: blocked_by_agent, effect: block}]")

    @tool
    def blocked_by_agent():
        raise AssertionError("ran")

    async def scenario(place):
        async with tappass_session(name="order"):
            with pytest.raises((A2AError, A2AClientError)) as caught:
                await place.send()
            assert "`blocked_by_agent`" in str(caught.value)
            assert "never" in str(caught.value)

    with Place(Answering(blocked_by_agent), binding=binding).up() as place:
        anyio.run(scenario, place)


@pytest.mark.parametrize("kind", [Answering, Working])
def test_a_call_that_waits_for_people_has_the_task_wait_and_runs_when_asked_again(kind, tappass_plane):
    tappass_plane.policy("version: 1\nrules: [{id: ask, tool: held_by_agent, effect: require_approval}]")
    ran = []

    @tool
    def held_by_agent():
        ran.append(1)

    async def scenario(place):
        async with tappass_session(name="order"):
            (event,) = await place.send()
            task = event.task
            assert task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
            told = task.status.message.metadata[EXTENSION]
            assert (told["decision"], told["code"]) == ("approval_required", "approval_required")
            assert told["approval_url"] in task.status.message.parts[0].text
            voting = tappass_plane.plane.engine.voting
            voting.approve(voting.approval_of(told["resume_token"]), ADA, "a test")
            assert not ran
            if kind is Working:
                (event,) = await place.send(message(task_id=task.id, context_id=task.context_id))
                assert event.task.status.state == TaskState.TASK_STATE_COMPLETED
            else:
                assert texts(await place.send())
            assert ran == [1]

    with Place(kind(held_by_agent)).up() as place:
        anyio.run(scenario, place)


@pytest.mark.parametrize("tokens", [False, True])
def test_a_cancelled_task_ends_its_work_and_its_session(tappass_plane, audit_events, tokens):
    started, ended = threading.Event(), []

    class Endless(Working):
        async def execute(self, context, event_queue):
            status = TaskStatus(state=TaskState.TASK_STATE_WORKING)
            await event_queue.enqueue_event(Task(id=context.task_id, context_id=context.context_id, status=status))
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(current_session().session_id)

        async def cancel(self, context, event_queue):
            ended.append(current_session().session_id)
            await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()

    async def scenario(place):
        interceptors = [CorrelationInterceptor()] if tokens else []
        async with tappass_session(name="order") as session:
            client = await place.client(streaming=True, interceptors=interceptors)
            async for event in client.send_message(message()):
                task = event.task
                break
            elsewhere = ClientCallContext(service_parameters={HEADER: session.stamp("elsewhere")})
            cancelled = await client.cancel_task(CancelTaskRequest(id=task.id))
            assert cancelled.status.state == TaskState.TASK_STATE_CANCELED
            await client.close()
            await eventually(lambda: len(ended) == 2)
            assert len(set(ended)) == 1
            if not tokens:
                await eventually(lambda: audit_events(type="session.closed", session_id=ended[0]))
            # What no longer runs is nobody's to cancel, whatever is shown for it.
            client = await place.client(interceptors=[])
            with pytest.raises((A2AError, A2AClientError)):
                await client.cancel_task(CancelTaskRequest(id=task.id), context=elsewhere)
            await client.close()

    with Place(Endless(), required=False).up() as place:
        anyio.run(scenario, place)


def test_a_plane_that_is_away_is_an_error_and_nothing_runs(tappass_plane):
    executor = Answering()
    away = {"url": f"http://127.0.0.1:{free_port()}", "api_key": "tp_none"}

    async def scenario(place):
        with pytest.raises((A2AError, A2AClientError), match="control plane"):
            await place.send(interceptors=[])

    with Place(executor, **away).up() as place:
        anyio.run(scenario, place)
    assert executor.ran == 0


def test_messages_carry_a_token_by_hand_too(tappass_plane):
    from tappass import join_correlation

    with tappass_session(name="order") as session:
        for carrier in (message(), message().message):
            stamped = with_correlation(carrier, audience="billing")
            assert type(stamped) is type(carrier)
            assert METADATA not in carrier.metadata
            with join_correlation(stamped, audience="billing") as joined:
                assert joined.parent == session.session_id
        request = message()
        request.metadata.update({METADATA: 7})
        with pytest.raises(CorrelationRefused), join_correlation(request, audience="billing"):
            pass
