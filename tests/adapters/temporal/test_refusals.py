"""A refusal is a failure that is not retried, and the caller's exception again."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
from datetime import timedelta
from uuid import uuid4

import pytest
from tappass_adapters.temporal.failures import error_of, failure_of
from temporalio.client import Client, WithStartWorkflowOperation, WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Worker

from tappass import Correlation, TapPassPlugin, governed_workflow
from tappass.errors import (
    ApprovalRequired,
    BreakGlassActive,
    GovernanceDecision,
    PolicyBlockError,
    RedactionApplied,
    TapPassConfigError,
    TapPassConnectionError,
    ToolIntegrityViolation,
    TrustTierDenied,
)
from tappass.wire.findings import Redaction
from tests.adapters.temporal import workflows as w
from tests.adapters.temporal.conftest import World, remote
from tests.adapters.temporal.elsewhere import Elsewhere, WithKey

pytestmark = pytest.mark.anyio

IDS = Correlation(session_id="ses_1", task_id="tsk_1", agent_uuid="a", pipeline_uuid="p", audit_url="http://x/1")
SAID = {"reason": "why", "correlation": IDS}
ERRORS = [
    PolicyBlockError("m", blocked_by="r", classification="SECRET", **SAID),
    TrustTierDenied("m", required_tier="trusted", actual_tier="standard", **SAID),
    ApprovalRequired("m", approval_url="http://x/a", resume_token="tp_resume_x", expires_at="2030", **SAID),
    BreakGlassActive("m", level="relax", expires_at="2030", **SAID),
    ToolIntegrityViolation("m", tool_name="t", violation="revoked", **SAID),
    TapPassConfigError("m"),
    TapPassConnectionError("m"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_comes_back_as_it_went(error):
    failure = failure_of(error)
    assert failure.non_retryable is not isinstance(error, TapPassConnectionError)
    back = error_of(failure)
    assert type(back) is type(error)
    assert (str(back), back.__dict__) == (str(error), error.__dict__)
    assert pickle.loads(pickle.dumps(back)).__dict__ == error.__dict__


def test_what_was_redacted_is_not_in_the_failure():
    redaction = Redaction(kind="EMAIL", start=0, end=3, replacement="x", where="/key")
    failure = failure_of(RedactionApplied("m", redactions=(redaction,), redacted_content="the rest", **SAID))
    assert "the rest" not in str(failure.details)
    assert "/key" not in str(failure.details)
    back = error_of(failure)
    assert isinstance(back, RedactionApplied)
    assert (back.reason, back.redactions, back.redacted_content) == ("why", (), "")


@pytest.mark.parametrize(
    "failure",
    [
        ApplicationError("no", type="PolicyBlockError"),
        ApplicationError("no", {"tappass": "TrustTierDenied"}, type="PolicyBlockError"),
        ApplicationError("no", "text", type="PolicyBlockError"),
        ApplicationError("no", {"tappass": "ValueError"}, type="ValueError"),
        ValueError("no"),
        None,
    ],
)
def test_what_only_looks_like_ours_stays_as_it_is(failure):
    assert error_of(failure) is None


async def test_a_blocked_activity_never_runs_and_its_caller_gets_the_block(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Sending.run, "send", ["eve", "the numbers"])
        with pytest.raises(PolicyBlockError) as caught:
            await handle.result()
        await world.keep(handle, "block")
        history = await handle.fetch_history()
    assert ran == []
    error = caught.value
    assert (error.blocked_by, error.classification) == ("no-eve", "INTERNAL")
    (decided,) = world.events(type="call.decided")
    assert (decided.outcome, decided.task_id, decided.session_id) == ("block", error.task_id, error.session_id)
    assert isinstance(error.__cause__, WorkflowFailureError)
    assert isinstance(error.__cause__.cause, ActivityError)
    (failed,) = [e for e in history.events if e.HasField("activity_task_failed_event_attributes")]
    failure = failed.activity_task_failed_event_attributes.failure
    assert failure.application_failure_info.type == "PolicyBlockError"
    assert failure.application_failure_info.non_retryable
    assert "numbers" not in str(failure)


async def test_a_handle_made_from_an_id_raises_it_too(world):
    async with world.working() as client:
        handle = await world.start(client, w.Sending.run, "send", ["eve"])
        with pytest.raises(PolicyBlockError):
            await client.get_workflow_handle(handle.id).result()


async def test_a_client_without_the_plugin_gets_the_plain_failure(world):
    async with world.working() as client:
        handle = await world.start(client, w.Sending.run, "send", ["eve"])
        plain = await Client.connect(world.address)
        with pytest.raises(WorkflowFailureError) as caught:
            await plain.get_workflow_handle(handle.id).result()
    assert caught.value.cause.cause.type == "PolicyBlockError"


async def test_a_childs_block_reaches_the_parents_caller(world, ran):
    world.plane.policy("version: 1\nrules: [{id: never, tool: pay, effect: block}]")
    async with world.working() as client:
        with pytest.raises(PolicyBlockError, match="never"):
            await world.run(client, w.Parent.run, "bob", 5.0)
    assert ran == []


async def test_an_updates_caller_gets_the_block(world, ran):
    world.plane.policy("version: 1\nrules: [{id: never, tool: pay, effect: block}]")
    async with world.working() as client:
        handle = await world.start(client, w.Listening.run)
        with pytest.raises(PolicyBlockError, match="never"):
            await handle.execute_update(w.Listening.please_pay, args=["bob", 5.0])
        start = WithStartWorkflowOperation(
            w.Listening.run,
            id=handle.id,
            task_queue=world.queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
        with pytest.raises(PolicyBlockError, match="never"):
            await client.execute_update_with_start_workflow(
                w.Listening.please_pay, args=["bob", 5.0], start_workflow_operation=start
            )
        await handle.signal(w.Listening.end)
        await handle.result()
    assert ran == []


async def test_workflow_code_sees_an_activity_error_and_may_answer_it(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Compensating.run, "eve")
        assert await handle.result() == "ActivityError send PolicyBlockError False"
        await world.keep(handle, "compensated")
    assert ran == []
    assert [e.status for e in world.events(type="session.closed")] == ["completed"]


async def test_an_error_that_the_workflow_raises_itself_stays_its_own(world):
    async with world.working() as client:
        with pytest.raises(WorkflowFailureError) as caught:
            await world.run(client, w.Renaming.run, "eve")
    assert caught.value.cause.type == "NotSent"


async def test_a_tier_that_is_too_low_comes_back_as_such(world):
    async with world.working() as client:
        with pytest.raises(TrustTierDenied) as caught:
            await world.run(client, w.Sending.run, "deposit", [500.0])
    assert (caught.value.required_tier, caught.value.actual_tier) == ("trusted", "standard")


async def test_a_block_of_a_tool_inside_an_activity_comes_back_too(world, ran):
    world.plane.policy("version: 1\nrules: [{id: never, tool: wire, effect: block}]")
    async with world.working() as client:
        with pytest.raises(PolicyBlockError, match="never"):
            await world.run(client, w.Sending.run, "wire_through", ["bob", 5.0])
    assert [name for name, *_ in ran] == ["wire_through"]


async def test_results_are_redacted_before_they_reach_a_history(world):
    async with world.working() as client:
        handle = await world.start(client, w.Sending.run, "read_customer", [7])
        result = await handle.result()
        history = (await handle.fetch_history()).to_json()
    assert "ada@example.com" not in result
    assert "write to" in result
    assert base64.b64encode(b"ada@example").decode()[:12] not in history
    assert result in base64.b64decode(_result_of(history)).decode()


def _result_of(history):
    (done,) = [
        e["activityTaskCompletedEventAttributes"]
        for e in json.loads(history)["events"]
        if "activityTaskCompletedEventAttributes" in e
    ]
    return done["result"]["payloads"][0]["data"]


async def test_the_decorators_options_reach_the_activity(world):
    async with world.working() as client:
        with pytest.raises(RedactionApplied) as caught:
            await world.run(client, w.Strict.run, 7)
    assert caught.value.ran
    assert "ada" not in str(caught.value.__dict__)


async def test_an_activity_that_completes_elsewhere_is_refused(world):
    async with world.working() as client:
        with pytest.raises(TapPassConfigError, match="left its completion to another process"):
            await world.run(client, w.Sending.run, "leave_open", [])


async def test_arguments_that_policy_cannot_see_are_refused(world, ran):
    async with world.working() as client:
        with pytest.raises(TapPassConfigError, match="cannot be shown to policy"):
            await world.run(client, w.Sending.run, "send", [float("nan")])
    assert ran == []


async def test_an_unreachable_plane_runs_nothing_and_is_retried_as_temporal_retries(address, ran):
    ran.clear()
    # A port that no other test is given meanwhile.
    world = World(address, None, "http://127.0.0.1:9", "tp_" + "a" * 43)
    async with world.working() as client:
        patient = timedelta(seconds=90)
        handle = await world.start(client, w.Sending.run, "send", ["bob"], execution_timeout=patient)
        with pytest.raises(TapPassConnectionError):
            await handle.result()
        history = await handle.fetch_history()
    assert ran == []
    started = [e for e in history.events if e.HasField("activity_task_started_event_attributes")]
    assert started[-1].activity_task_started_event_attributes.attempt == 2


async def test_a_plane_that_comes_back_is_asked_again(tmp_path, address, ran):
    """The server is away for the first attempts, and there for a later one."""
    ran.clear()
    with remote(tmp_path) as (plane, url, key):
        world = World(address, plane, url, key)
        calls = []
        real = plane.plane.ask

        def away(asking):
            calls.append(asking.path)
            if len(calls) < 2:
                raise TapPassConnectionError("away")
            return real(asking)

        plane.plane.ask = away
        async with world.working() as client:
            assert await world.run(client, w.Sending.run, "send", ["bob"])
    assert len(ran) == 1


# Without the plugin, and with more than one.


async def test_without_the_plugin_the_first_task_fails_the_workflow_naming_the_missing_line(address, ran):
    ran.clear()
    client = await Client.connect(address)
    queue = f"queue-{uuid4().hex}"
    async with Worker(client, task_queue=queue, workflows=[w.Paying, w.Sending], activities=[w.pay, w.send]):
        for run, args in ((w.Paying.run, ["bob", 5.0]), (w.Sending.run, ["send", ["bob"]])):
            handle = await client.start_workflow(run, args=args, id=uuid4().hex, task_queue=queue)
            with pytest.raises(WorkflowFailureError) as caught:
                await asyncio.wait_for(handle.result(), 20)
            assert caught.value.cause.type == "TapPassConfigError"
            assert "Client.connect(..., plugins=[TapPassPlugin(" in str(caught.value.cause)
            history = await handle.fetch_history()
            assert not [e for e in history.events if e.HasField("workflow_task_failed_event_attributes")]
            assert not [e for e in history.events if e.HasField("activity_task_scheduled_event_attributes")]
    assert ran == []


@pytest.mark.parametrize(("workflow", "what"), [(Elsewhere, "url"), (WithKey, "api_key")])
async def test_a_decorator_that_names_another_plane_is_refused(world, workflow, what):
    client = await world.client()
    with pytest.raises(TapPassConfigError, match=f"names another {what}") as caught:
        world.worker(client, workflows=[workflow])
    assert "tp_other" not in str(caught.value)
    assert "tp_other" not in repr(vars(workflow))


async def test_a_decorator_may_say_the_plugins_plane_again(address):
    plugin = TapPassPlugin(url="https://another.example", api_key="tp_other")
    client = await Client.connect(address, plugins=[plugin])
    Worker(client, task_queue="q", workflows=[Elsewhere, WithKey])


async def test_two_plugins_on_one_worker_are_refused(world):
    client = await world.client()
    with (
        pytest.raises(TapPassConfigError, match="governs this worker already"),
        pytest.warns(UserWarning, match="TapPassPlugin"),
    ):
        world.worker(client, plugins=[world.plugin()])


async def test_a_plugin_given_to_the_worker_alone_governs_it(world, ran):
    client = await Client.connect(world.address)
    async with world.worker(client, plugins=[world.plugin()]):
        with pytest.raises(WorkflowFailureError) as caught:
            await world.run(client, w.Sending.run, "send", ["eve"])
        assert await world.run(client, w.Sending.run, "send", ["bob"])
    assert caught.value.cause.cause.type == "PolicyBlockError"
    assert len(ran) == 1


async def test_a_worker_that_could_not_wait_for_people_is_refused(world):
    client = await world.client()
    with pytest.raises(TapPassConfigError, match="no_remote_activities"):
        world.worker(client, no_remote_activities=True)


@pytest.mark.parametrize("poll_s", [0, -1, float("nan")])
def test_a_poll_that_is_no_time_is_refused(poll_s):
    with pytest.raises(TapPassConfigError, match="approval_poll_s"):
        TapPassPlugin(approval_poll_s=poll_s)


def test_only_a_workflow_class_can_be_governed():
    class NoWorkflow: ...

    for thing in (NoWorkflow, lambda: None, "text"):
        with pytest.raises(TapPassConfigError):
            governed_workflow(thing)
    with pytest.raises(TapPassConfigError, match="other options"):
        governed_workflow(url="https://x.example")(w.Paying)


def test_every_error_is_told_apart():
    assert {type(e) for e in ERRORS} >= set(GovernanceDecision.__subclasses__()) - {RedactionApplied}
