"""A call that waits for people suspends its workflow, for as long as it takes, through whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from tappass import PolicyBlockError
from tappass.plane.connect import connect
from tappass.testing import memory_plane
from tests.adapters.temporal import workflows as w
from tests.adapters.temporal.conftest import POLICY, World, remote, until
from tests.adapters.temporal.servers import binary
from tests.adapters.temporal.test_sessions import reset
from tests.adapters.temporal.working import worker_process
from tests.people import HandClock

pytestmark = pytest.mark.anyio


def asked(world):
    return len(world.events(type="approval.requested"))


async def test_an_approved_activity_runs_once_and_the_query_shows_what_it_waits_for(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Paying.run, "acme", 500.0)
        (waits,) = await world.waiting(handle)
        assert ran == []
        assert waits.keys() == {"name", "approval_url", "expires_at"}
        assert waits["name"] == "pay"
        assert "/approvals/apr_" in waits["approval_url"]
        assert "acme" not in str(waits)
        await world.approve(waits)
        assert await handle.result() == "500 paid to acme"
        assert await handle.query("tappass_waiting") == []
        await world.keep(handle, "approved")
    assert len(ran) == 1
    assert asked(world) == 1
    decided = [e.outcome for e in world.events(type="call.decided")]
    assert decided == ["needs_approval", "allow"]
    assert len(world.events(type="approval.redeemed")) == 1
    assert [e.status for e in world.events(type="session.closed")] == ["suspended", "completed"]
    assert len(world.events(type="session.opened")) == len(world.events(type="session.reopened")) == 1


async def test_waiting_leaves_no_events_in_the_history(world):
    async with world.working() as client:
        handle = await world.start(client, w.Paying.run, "acme", 500.0)
        (waits,) = await world.waiting(handle)
        before = len((await handle.fetch_history()).events)
        await asyncio.sleep(1)  # ten looks
        # One that has begun may be there, of all the attempts.
        assert len((await handle.fetch_history()).events) <= before + 1
        await world.approve(waits)
        await handle.result()


async def test_a_denied_activity_never_runs_and_its_caller_gets_the_refusal(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Paying.run, "acme", 500.0)
        (waits,) = await world.waiting(handle)
        await world.deny(waits)
        with pytest.raises(PolicyBlockError) as caught:
            await handle.result()
        await world.keep(handle, "denied")
        history = await handle.fetch_history()
    assert ran == []
    assert caught.value.blocked_by == "approval-denied"
    assert caught.value.session_id == world.events(type="approval.denied")[0].session_id
    assert caught.value.task_id == world.events(type="approval.denied")[0].task_id
    failure = history.events[-1].workflow_execution_failed_event_attributes.failure
    assert failure.activity_failure_info.activity_type.name == "pay"
    assert [e.status for e in world.events(type="session.closed")] == ["suspended", "failed"]


async def test_an_approved_call_is_decided_by_the_policy_of_the_day_it_runs(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Paying.run, "acme", 500.0)
        (waits,) = await world.waiting(handle)
        world.plane.policy("version: 1\nrules: [{id: frozen, tool: pay, effect: block}]")
        await world.approve(waits)
        with pytest.raises(PolicyBlockError, match="frozen"):
            await handle.result()
    assert ran == []


async def test_what_else_runs_while_a_call_waits_belongs_to_the_same_session(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Listening.run)
        update = asyncio.ensure_future(handle.execute_update(w.Listening.please_pay, args=["acme", 500.0]))
        (waits,) = await world.waiting(handle)
        for _ in range(3):
            await handle.signal(w.Listening.please_send, "bob")
        await until(lambda: len(ran) == 3)
        await world.approve(waits)
        await update
        await handle.signal(w.Listening.end)
        (session_id, *_) = await handle.result()
        await world.keep(handle, "meanwhile")
    assert {session for _, _, session in ran} == {session_id}
    assert [e.status for e in world.events(type="session.closed")] == ["suspended", "completed"]


async def test_what_nobody_approves_for_thirty_days_is_refused(ran):
    clock = HandClock()
    ran.clear()
    with memory_plane(POLICY, clock=clock) as plane:
        world = World("", plane, plane.url, None)
        async with (
            await WorkflowEnvironment.start_time_skipping(
                test_server_existing_path=binary("temporal-test-server"),
                plugins=[world.plugin(approval_poll_s=86400.0)],
            ) as env,
            world.worker(env.client),
        ):
            handle = await world.start(env.client, w.Paying.run, "acme", 500.0, execution_timeout=timedelta(days=100))
            await until(lambda: plane.events(type="session.closed", status="suspended"))
            began = await env.get_current_time()
            await env.sleep(timedelta(days=29))
            assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
            clock.pass_s(30 * 86400)
            with pytest.raises(PolicyBlockError) as caught:
                await handle.result()
            assert await env.get_current_time() - began >= timedelta(days=29)
            await world.keep(handle, "expired")
        assert caught.value.blocked_by == "approval-expired"
        assert ran == []
        assert len(plane.events(type="approval.expired")) == 1


@pytest.fixture
def disk(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch):
    """A world whose plane is a database that several processes open."""
    url = f"sqlite:///{tmp_path}/.tappass/tappass.db"
    (tmp_path / ".tappass").mkdir()
    (tmp_path / "policy.yaml").write_text(POLICY)
    plane = connect(url)
    plane.pipelines.accept("os:tester")

    def events(**equal):
        plane.engine.store.flush()
        found = plane.engine.store.read.all_events()
        return [e for e in found if all(getattr(e, name) == value for name, value in equal.items())]

    plane.events = events
    world = World(address, plane, url, None)
    world.file = tmp_path / "ran.txt"
    world.file.touch()
    return world


@pytest.fixture
def shared(request, address, tmp_path, monkeypatch):
    """The same on disk, and behind a server."""
    if request.param == "embedded":
        yield request.getfixturevalue("disk")
        return
    with remote(tmp_path) as (plane, url, key):
        world = World(address, plane, url, key)
        world.file = tmp_path / "ran.txt"
        world.file.touch()
        yield world


def lines(world):
    return world.file.read_text().splitlines()


@pytest.mark.parametrize("shared", ["embedded", "remote"], indirect=True)
async def test_an_approval_survives_a_kill_of_the_worker(shared):
    world = shared
    client = await world.client()
    patient = timedelta(seconds=90)
    with worker_process(world.address, world.queue, world.url, RAN_FILE=str(world.file)):
        handle = await world.start(client, w.Paying.run, "acme", 500.0, execution_timeout=patient)
        (waits,) = await world.waiting(handle)
    await world.approve(waits)
    assert lines(world) == []
    with worker_process(world.address, world.queue, world.url, RAN_FILE=str(world.file)):
        assert await handle.result() == "500 paid to acme"
        await world.keep(handle, "killed")
    assert lines(world) == ["pay ('acme', 500.0)"]
    assert asked(world) == 1


@pytest.mark.parametrize("shared", ["embedded", "remote"], indirect=True)
async def test_an_activity_that_started_and_never_settled_asks_anew(shared):
    world = shared
    client = await world.client()
    patient = timedelta(seconds=120)
    file = {"RAN_FILE": str(world.file)}
    with worker_process(world.address, world.queue, world.url, HANG="1", **file):
        handle = await world.start(client, w.Hanging.run, "acme", 500.0, execution_timeout=patient)
        (waits,) = await world.waiting(handle)
        await world.approve(waits)
        await until(lambda: lines(world))
    # The approval is used, and nobody can say whether the money went.
    with worker_process(world.address, world.queue, world.url, **file):
        (again,) = await world.waiting(handle)
        assert again["approval_url"] != waits["approval_url"]
        assert len(lines(world)) == 1
        await world.approve(again)
        assert await handle.result() == "500 paid to acme"
        await world.keep(handle, "unsettled")
    assert len(lines(world)) == 2
    assert asked(world) == 2


async def test_several_workers_share_one_plane(disk):
    world = disk
    client = await world.client()
    patient = timedelta(seconds=60)
    file = {"RAN_FILE": str(world.file)}
    where = (world.address, world.queue, world.url)
    with worker_process(*where, **file), worker_process(*where, **file):
        handles = [await world.start(client, w.Stepping.run, execution_timeout=patient) for _ in range(10)]
        sessions = [await handle.result() for handle in handles]
    assert all(first == second for first, second in sessions)
    assert len({first for first, _ in sessions}) == 10
    assert len(lines(world)) == 20
    decided = world.events(type="call.decided")
    assert [e.outcome for e in decided] == ["allow"] * 20
    for first, _ in sessions:
        assert [e.status for e in world.events(type="session.closed", session_id=first)] == ["completed"]


async def test_each_attempt_of_an_approved_activity_asks_once(world, ran):
    """The first attempt fails after it was approved: the second is another run, and people are asked about it."""
    async with world.working() as client:
        handle = await world.start(client, w.Sending.run, "pay_flaky", ["acme", 500.0])
        (first,) = await world.waiting(handle)
        await world.approve(first)
        await until(lambda: asked(world) > 1)
        (second,) = await world.waiting(handle)
        assert second["approval_url"] != first["approval_url"]
        await world.approve(second)
        assert await handle.result() == "500 paid to acme"
        await world.keep(handle, "retried")
    assert len([name for name, *_ in ran if name == "pay_flaky"]) == 2
    assert asked(world) == 2
    assert len(world.events(type="approval.redeemed")) == 2


async def test_an_attempt_that_is_repeated_while_people_think_does_not_ask_twice(world):
    """A reset starts the held activity again: it is the same question, and it stays one."""
    async with world.working() as client:
        handle = await world.start(client, w.Paying.run, "acme", 500.0)
        (first,) = await world.waiting(handle)
        await reset(client, handle, after=1)
        again = client.get_workflow_handle(handle.id)
        (second,) = await world.waiting(again)
        assert second == first
        await world.approve(second)
        assert await again.result() == "500 paid to acme"
    assert asked(world) == 1


async def test_a_reset_to_before_an_approved_call_asks_again(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Paying.run, "acme", 500.0)
        await world.approve((await world.waiting(handle))[0])
        await handle.result()
        await reset(client, handle, after=1)
        again = client.get_workflow_handle(handle.id)
        (waits,) = await world.waiting(again)
        assert len(ran) == 1
        await world.approve(waits)
        await again.result()
    assert len(ran) == 2
    assert asked(world) == 2


async def test_two_equal_calls_at_once_need_an_approval_each(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.PayingBoth.run, "acme", 500.0)
        both = await world.waiting(handle, 2)
        await world.approve(both[0])
        await until(lambda: ran)
        await until(lambda: asked(world) > 1)
        assert len(ran) == 1
        await world.approve(await world.another(handle, both[0]))
        assert await handle.result() == ["500 paid to acme"] * 2
        await world.keep(handle, "both")
    assert len(ran) == 2
    assert len(world.events(type="approval.redeemed")) == 2


async def test_a_local_activity_waits_too(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.PayingLocally.run, "acme", 500.0)
        (waits,) = await world.waiting(handle)
        assert ran == []
        await world.approve(waits)
        assert await handle.result() == "500 paid to acme"
        await world.keep(handle, "approved-locally")
    assert len(ran) == 1


@pytest.mark.parametrize("workflow", [w.PayingLocally, w.Parent])
async def test_a_local_activity_or_a_child_that_is_denied_brings_the_refusal(world, ran, workflow):
    async with world.working() as client:
        handle = await world.start(client, workflow.run, "acme", 500.0)
        asking = client.get_workflow_handle(f"{handle.id}-c") if workflow is w.Parent else handle
        await world.deny((await world.waiting(asking))[0])
        with pytest.raises(PolicyBlockError) as caught:
            await handle.result()
    assert caught.value.blocked_by == "approval-denied"
    assert ran == []


async def test_a_child_waits_and_its_parent_with_it(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Parent.run, "acme", 500.0)
        child = client.get_workflow_handle(f"{handle.id}-c")
        (waits,) = await world.waiting(child)
        assert ran == []
        await world.approve(waits)
        assert await handle.result() == "500 paid to acme"
        await world.keep(child, "approved-child")
    assert len(ran) == 1


async def test_an_update_waits_too(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Listening.run)
        update = asyncio.ensure_future(handle.execute_update(w.Listening.please_pay, args=["acme", 500.0]))
        (waits,) = await world.waiting(handle)
        await world.approve(waits)
        assert await update == "500 paid to acme"
        await handle.signal(w.Listening.end)
        await handle.result()
        await world.keep(handle, "approved-update")
    assert len(ran) == 1


@pytest.mark.parametrize(("name", "runs"), [("wire_through", 2), ("transfer", 0)])
async def test_a_tool_that_is_held_holds_its_activity(world, ran, name, runs):
    """Within an activity the tool alone is held, and the activity starts again; as an activity it never started."""
    async with world.working() as client:
        handle = await world.start(client, w.Sending.run, name, ["acme", 500.0])
        (waits,) = await world.waiting(handle)
        assert len(ran) == runs // 2
        await world.approve(waits)
        await handle.result()
    held = "wire" if name == "wire_through" else "transfer"
    assert len([ran_name for ran_name, *_ in ran if ran_name == held]) == 1
    assert asked(world) == 1


async def test_a_workflow_that_is_cancelled_while_it_waits_ends(world, ran):
    async with world.working() as client:
        handle = await world.start(client, w.Paying.run, "acme", 500.0)
        (waits,) = await world.waiting(handle)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        assert (await handle.describe()).status.name == "CANCELED"
        await world.keep(handle, "cancelled-waiting")
        await world.approve(waits)
    assert ran == []
    assert [e.status for e in world.events(type="session.closed")] == ["suspended", "failed"]


async def test_an_execution_that_began_before_it_was_governed_is_not_suspended(world, ran):
    """Its history knows none of our commands, so the held call fails as it would have, and the log says suspended."""
    plain = await Client.connect(world.address)
    handle = await plain.start_workflow(
        "Late", args=["acme", 500.0], id=f"late-{world.queue}", task_queue=world.queue, execution_timeout=w.S
    )
    async with Worker(plain, task_queue=world.queue, workflows=[w.LateBefore]):
        await world.task_done(handle)
    client = await world.client()
    async with world.worker(client, workflows=[w.LateAfter]):
        await client.get_workflow_handle(handle.id).signal("go")
        with pytest.raises(Exception, match="needs an approval"):
            await client.get_workflow_handle(handle.id).result()
        await world.keep(handle, "late")
    assert ran == []


async def test_an_execution_of_before_is_kept_to_be_replayed(world):
    client = await Client.connect(world.address)
    options = {"id": f"plain-{world.queue}", "task_queue": world.queue, "execution_timeout": w.S}
    async with world.worker(client, workflows=[w.LateBefore]):
        handle = await client.start_workflow("Late", args=["acme", 500.0], **options)
        await handle.signal("go")
        assert await handle.result() == "500 paid to acme"
        await world.keep(handle, "plain")


async def test_held_calls_take_up_no_slots(world, ran):
    """With one slot for activities, ten workflows wait and another one goes on."""
    client = await world.client()
    async with world.worker(client, max_concurrent_activities=1, activity_executor=ThreadPoolExecutor(1)):
        handles = [await world.start(client, w.Paying.run, f"acme{n}", 500.0) for n in range(10)]
        for handle in handles:
            await world.waiting(handle)
        began = time.monotonic()
        assert await world.run(client, w.Paying.run, "bob", 5.0) == "5 paid to bob"
        assert time.monotonic() - began < 20
        for handle in handles:
            await handle.terminate()
