"""Histories that were recorded once replay for ever: also with a later version of the workflow, or of tappass.

They are written anew by `TAPPASS_RECORD=1 pytest tests/adapters/temporal`, which is only right before a release whose
commands differ; one that is kept is a promise to executions that are running.
"""

from __future__ import annotations

import dataclasses
import importlib
from datetime import timedelta
from importlib.metadata import version as version_of
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

import tappass
from tappass import PolicyBlockError, TapPassPlugin
from tappass.toolspec import release_names
from tappass.wire import version
from tests.adapters.temporal import workflows
from tests.adapters.temporal import workflows as w
from tests.adapters.temporal.servers import SANDBOX

pytestmark = pytest.mark.anyio

# Written by temporalio 1.35. An SDK replays what it or an older one wrote, and writes this one otherwise by now.
NEWER = {"cancelled"} if version_of("temporalio").split(".")[:2] < ["1", "35"] else set()
HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))
REPLAYED = [path for path in HISTORIES if path.stem not in NEWER]
ADDED = "await workflow.execute_activity(extra, start_to_close_timeout=S)"


def later(tmp_path, monkeypatch, added):
    """Return the workflows as a later version has them: each does one more thing first."""
    source = Path(workflows.__file__).read_text()
    assert source.count("# added: here") > 10
    name = f"workflows_{abs(hash((str(tmp_path), added)))}"
    (tmp_path / f"{name}.py").write_text(source.replace("# added: here", added))
    monkeypatch.syspath_prepend(tmp_path)
    release_names()
    return importlib.import_module(name)


def governed(module):
    return [*module.WORKFLOWS, module.LateAfter]


async def replay(history, kinds, plugins=None):
    plugins = [TapPassPlugin()] if plugins is None else plugins
    replayer = Replayer(workflows=kinds, plugins=plugins, workflow_runner=SANDBOX)
    found = WorkflowHistory.from_json("", history.read_text())
    # A child's id may be made of it.
    found = dataclasses.replace(
        found, workflow_id=found.events[0].workflow_execution_started_event_attributes.workflow_id
    )
    result = await replayer.replay_workflow(found, raise_on_replay_failure=False)
    return result.replay_failure


def test_there_is_a_history_of_each_thing_that_may_happen():
    assert {path.stem for path in HISTORIES} >= {
        "run", "block", "approved", "killed", "denied", "expired", "retried", "unsettled", "child", "parent", "signals",
        "talking", "continued-0", "continued-1", "reset", "cron", "local", "approved-locally", "approved-child",
        "approved-update", "cancelled", "cancelled-slow", "cancelled-waiting", "compensated", "both", "late", "plain",
    }  # fmt: skip


@pytest.mark.parametrize("history", REPLAYED, ids=lambda path: path.stem)
async def test_a_history_replays(history):
    assert await replay(history, governed(workflows)) is None


@pytest.mark.parametrize("history", REPLAYED, ids=lambda path: path.stem)
async def test_a_history_replays_with_a_newer_patch_version(history, monkeypatch):
    monkeypatch.setattr(version, "VERSION", "0.6.99")
    monkeypatch.setattr(tappass, "__version__", "0.6.99")
    assert await replay(history, governed(workflows)) is None


@pytest.mark.parametrize("history", REPLAYED, ids=lambda path: path.stem)
async def test_a_history_replays_with_an_activity_added_behind_a_patch(history, tmp_path, monkeypatch):
    module = later(tmp_path, monkeypatch, f'if workflow.patched("more"): {ADDED}')
    assert await replay(history, governed(module)) is None


async def test_the_replayer_sees_an_activity_added_without_one(tmp_path, monkeypatch):
    module = later(tmp_path, monkeypatch, ADDED)
    (history,) = [path for path in HISTORIES if path.stem == "run"]
    assert await replay(history, governed(module)) is not None


async def test_a_governed_history_does_not_replay_without_the_plugin():
    (history,) = [path for path in HISTORIES if path.stem == "run"]
    assert await replay(history, governed(workflows), plugins=[]) is not None


async def test_a_history_from_before_it_was_governed_replays():
    """`late` and `plain` know none of our commands; they are of the same workflow without the decorator."""
    for name in ("late", "plain"):
        (history,) = [path for path in HISTORIES if path.stem == name]
        assert "tappass-1" not in history.read_text()
        assert await replay(history, governed(workflows)) is None


@pytest.mark.parametrize("runner", [None, UnsandboxedWorkflowRunner()], ids=["sandboxed", "unsandboxed"])
async def test_workflows_that_replay_at_every_task_do_the_same(world, ran, runner):
    """Without a cache each task replays all that went before.

    One after the other: a worker without a cache cancels local activities of one workflow for the sake of the next.
    """
    client = await world.client()
    options = {"max_cached_workflows": 0} | ({"workflow_runner": runner} if runner else {})

    async def start(workflow, to, amount):
        return await world.start(client, workflow.run, to, amount, execution_timeout=timedelta(seconds=90))

    async with world.worker(client, **options):
        for workflow, to, result in (
            (w.Paying, "acme", "500 paid to acme"),
            (w.PayingLocally, "carol", "500 paid to carol"),
            (w.PayingBoth, "bob", ["500 paid to bob"] * 2),
        ):
            handle = await start(workflow, to, 500.0)
            first = (await world.waiting(handle, len(result) if isinstance(result, list) else 1))[0]
            await world.approve(first)
            if isinstance(result, list):
                await world.approve(await world.another(handle, first))
            assert await handle.result() == result
        assert await (await start(w.Parent, "dan", 5.0)).result() == "5 paid to dan"
        denied = await start(w.Paying, "ed", 500.0)
        await world.deny((await world.waiting(denied))[0])
        with pytest.raises(PolicyBlockError):
            await denied.result()
    assert sorted(args[0] for _, args, _ in ran) == ["acme", "bob", "bob", "carol", "dan"]
