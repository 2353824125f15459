"""One session per execution: who belongs to it, what keeps it, how it ends."""

from __future__ import annotations

import base64
import inspect
import json
from datetime import timedelta

import pytest
from tappass_adapters.temporal.at_client import AtClient
from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowFailureError
from temporalio.common import RetryPolicy

from tappass import governed_workflow, tappass_session
from tests.adapters.temporal import workflows as w
from tests.adapters.temporal.conftest import until

pytestmark = pytest.mark.anyio


def closed(world, session_id):
    return [e.status for e in world.events(type="session.closed", session_id=session_id)]


async def test_an_execution_is_one_session_from_its_first_activity_to_its_end(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Sending.run, "send", ["bob"])
        session_id = await handle.result()
        await world.keep(handle, "run")
    opened = world.events(type="session.opened", session_id=session_id)
    assert [e.kind for e in opened] == ["workflow"]
    assert [(e.name, e.outcome) for e in world.events(type="call.decided", session_id=session_id)] == [
        ("send", "allow")
    ]
    assert closed(world, session_id) == ["completed"]
    assert ran == [("send", ("bob", "hello"), session_id)]


async def test_policy_sees_arguments_by_name_and_defaults_filled(world):
    world.plane.policy("version: 1\nrules: [{id: polite, tool: send, when: 'args.text == \"hello\"', effect: block}]")
    async with world.working() as client:
        with pytest.raises(Exception, match="polite"):
            await world.run(client, w.Sending.run, "send", ["bob"])
        assert await world.run(client, w.Sending.run, "send", ["bob", "bye"])


@pytest.mark.parametrize("name", ["send", "send_by_thread"])
async def test_an_activity_runs_in_the_executions_session(world, ran, name):
    async with world.working() as client:
        result = await world.run(client, w.Sending.run, name, ["bob"])
    session_id = result.split()[0]
    assert session_id.startswith("ses_")
    assert world.events(type="session.opened", session_id=session_id)
    if name == "send_by_thread":
        assert result.split()[1] == "False"


async def test_a_governed_tool_inside_an_activity_belongs_to_the_execution(world):
    async with world.working() as client:
        session_id = await world.run(client, w.Sending.run, "wire_through", ["bob", 5.0])
    names = [e.name for e in world.events(type="call.decided", session_id=session_id)]
    assert names == ["wire_through", "wire"]


async def test_an_activity_that_is_a_governed_tool_is_decided_once(world, ran):
    async with world.working() as client:
        assert await world.run(client, w.Sending.run, "transfer", ["bob", 5.0]) == "5 to bob"
        assert await world.run(client, w.Sending.run, "withdraw", [5.0]) == "5 withdrawn"
        assert await world.run(client, w.Sending.run, "deposit", [5.0])
    assert [e.name for e in world.events(type="call.decided")] == ["transfer", "withdraw", "deposit"]
    assert [name for name, *_ in ran] == ["transfer", "withdraw", "deposit"]


async def test_an_activity_mints_correlation_tokens_of_the_execution(world):
    async with world.working() as client:
        session_id = await world.run(client, w.Sending.run, "stamped", ["https://peer.example"])
    (opened,) = world.events(type="session.opened", session_id=session_id)
    assert opened.kind == "workflow"


async def test_a_dynamic_activity_is_decided_by_the_name_it_was_called_by(world, ran):
    world.plane.policy("version: 1\nrules: [{id: no, tool: wipe, when: 'args.args[0] == \"all\"', effect: block}]")
    async with world.working() as client:
        assert await world.run(client, w.Sending.run, "wipe", ["some"])
        with pytest.raises(Exception, match="`no`"):
            await world.run(client, w.Sending.run, "wipe", ["all"])
    assert [name for name, *_ in ran] == ["wipe"]


async def test_local_activities_belong_to_the_execution_too(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.PayingLocally.run, "bob", 5.0)
        assert await handle.result() == "5 paid to bob"
        await world.keep(handle, "local")
    (paid,) = ran
    assert [e.name for e in world.events(type="call.decided", session_id=paid[2])] == ["pay"]


async def test_a_childs_session_is_beneath_its_parents(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Parent.run, "bob", 5.0)
        await handle.result()
        await world.keep(handle, "parent")
        await world.keep(client.get_workflow_handle(f"{handle.id}-c"), "child")
    child = world.events(type="call.decided", name="pay")[0]
    (parent,) = [e for e in world.events(type="session.opened") if e.session_id == child.parent]
    assert parent.session_id != child.session_id
    assert closed(world, parent.session_id) == closed(world, child.session_id) == ["completed"]


async def test_an_execution_is_beneath_the_session_that_its_client_started_it_in(world):
    async with world.working() as client:
        with tappass_session(url=world.url, api_key=world.api_key, name="request") as session:
            session_id = await world.run(client, w.Sending.run, "send", ["bob"])
    (opened,) = world.events(type="session.opened", session_id=session_id)
    assert opened.parent == session.session_id


async def test_a_session_of_another_agent_is_no_parent_and_no_obstacle(world, monkeypatch):
    async def here(self):
        return "ses_somebody_elses"

    monkeypatch.setattr(AtClient, "_here", here)
    async with world.working() as client:
        session_id = await world.run(client, w.Sending.run, "send", ["bob"])
    assert closed(world, session_id) == ["completed"]


async def test_signals_and_updates_run_in_the_executions_session(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Listening.run)
        await handle.signal(w.Listening.please_send, "bob")
        assert await handle.execute_update(w.Listening.please_pay, args=["bob", 5.0]) == "5 paid to bob"
        await handle.signal(w.Listening.end)
        (session_id,) = await handle.result()
        await world.keep(handle, "signals")
    assert {session for _, _, session in ran} == {session_id}
    assert closed(world, session_id) == ["completed"]


async def test_a_signal_says_which_session_it_came_from(world):
    async with world.working() as client:
        handle = await world.start(client, w.Listening.run)
        with tappass_session(url=world.url, api_key=world.api_key) as session:
            await handle.signal(w.Listening.please_send, "bob")
            await handle.execute_update(w.Listening.please_pay, args=["bob", 5.0])
        talking = await world.start(client, w.Talking.run, handle.id)
        await talking.result()
        await handle.result()
        await world.keep(talking, "talking")
        history = (await handle.fetch_history()).to_json()
    sent = [
        json.loads(base64.b64decode(header["data"]))["sender"]
        for header in _headers(json.loads(history))
        if "sender" in json.loads(base64.b64decode(header["data"]))
    ]
    assert sent[0] == session.session_id
    assert len(set(sent)) == 2


def _headers(node):
    if isinstance(node, dict):
        if isinstance(found := node.get("tappass-session"), dict):
            yield found
        for value in node.values():
            yield from _headers(value)
    elif isinstance(node, list):
        for value in node:
            yield from _headers(value)


async def test_continuing_as_new_keeps_the_session(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Continuing.run, 2)
        session_id = await handle.result()
        for number, run_id in enumerate([handle.result_run_id, None]):
            await world.keep(client.get_workflow_handle(handle.id, run_id=run_id), f"continued-{number}")
    assert [session for _, _, session in ran] == [session_id] * 3
    assert closed(world, session_id) == ["completed"]


async def test_a_retried_workflow_keeps_the_session(world, ran):
    async with world.working() as client:
        retry = RetryPolicy(initial_interval=timedelta(milliseconds=20), maximum_attempts=3)
        session_id = await world.run(client, w.FailingOnce.run, retry_policy=retry)
    assert [session for _, _, session in ran] == [session_id] * 2
    assert closed(world, session_id) == ["failed", "completed"]


async def test_a_reset_workflow_keeps_the_session(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Stepping.run)
        first, _ = await handle.result()
        await reset(client, handle, after=2)
        again = client.get_workflow_handle(handle.id)
        assert await again.result() == [first, first]
        await world.keep(again, "reset")
    assert [args[0] for _, args, _ in ran] == ["one", "two", "two"]
    assert closed(world, first) == ["completed", "completed"]


async def reset(client, handle, after):
    """Reset a workflow to its so-manieth completed task."""
    tasks = [e async for e in handle.fetch_history_events() if e.HasField("workflow_task_completed_event_attributes")]
    await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=handle.result_run_id),
            reason="a test",
            request_id=handle.id,
            workflow_task_finish_event_id=tasks[after - 1].event_id,
        )
    )


async def test_each_run_of_a_cron_schedule_is_a_session_of_its_own(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Sending.run, "send", ["bob"], cron_schedule="@every 1s")
        await until(lambda: len(ran) > 1)
        run_id = handle.result_run_id
        await handle.terminate()
        await world.keep(client.get_workflow_handle(handle.id, run_id=run_id), "cron")
    first, second = ran[0][2], ran[1][2]
    assert first != second
    assert closed(world, first) == ["completed"]


async def test_an_execution_that_ran_nothing_is_on_record_with_its_end(world):
    async with world.working() as client:
        await world.run(client, w.Idle.run, 0.0)
    assert [e.status for e in world.events(type="session.closed")] == ["completed"]


async def test_a_cancelled_execution_closes_its_session_as_failed(world):
    async with world.working() as client:
        handle = await world.start(client, w.Idle.run, 600.0)
        await world.task_done(handle)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        await world.keep(handle, "cancelled")
    assert [e.status for e in world.events(type="session.closed")] == ["failed"]
    assert (await handle.describe()).status.name == "CANCELED"


@pytest.mark.parametrize("name", ["slow", "slow_by_thread"])
async def test_a_cancelled_activity_is_on_record_as_cancelled(world, ran, name):
    async with world.working() as client:
        handle = await world.start(client, w.Cancelling.run, name)
        await until(lambda: ran)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        await world.keep(handle, f"cancelled-{name}")
    assert [e.status for e in world.events(type="call.ended")] == ["cancelled"]


async def test_an_ungoverned_workflows_activities_are_decided_outside_any_session(world, ran):
    async with world.working() as client:
        assert await world.run(client, w.Plain.run, "bob")
        with pytest.raises(Exception, match="no-eve"):
            await world.run(client, w.Plain.run, "eve")
    assert [args[0] for _, args, _ in ran] == ["bob"]
    assert world.events(type="session.opened")[0].kind == "implicit"


def test_name_and_signature_stay():
    assert workflow._Definition.must_from_class(w.Paying).name == "Paying"
    assert workflow._Definition.must_from_class(w.Strict).name == "strict"
    for kind in (w.Paying, w.Sending):
        definition = workflow._Definition.must_from_class(kind)
        assert list(inspect.signature(kind.run).parameters) == list(inspect.signature(definition.run_fn).parameters)
        assert next(iter(inspect.signature(kind.run).parameters)) == "self"
        assert inspect.iscoroutinefunction(kind.run)
        assert definition.arg_types
        assert workflow._Definition.must_from_run_fn(kind.run).name == definition.name


def test_governing_twice_adds_nothing():
    run = w.Paying.run
    assert governed_workflow(w.Paying) is w.Paying
    assert w.Paying.run is run
