"""A guarded run: what is allowed runs, what is not never does, whichever way the run was begun."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from tappass import (
    PolicyBlockError,
    TapPassConfigError,
    TapPassConnectionError,
    ToolIntegrityViolation,
    TrustTierDenied,
    current_session,
    guard_adk_agent,
    guard_adk_agent_async,
)
from tests.adapters.google_adk.gemini import calls, says
from tests.adapters.google_adk.mail import (
    IN,
    OUT,
    RUNS,
    WAYS,
    Tools,
    asked,
    awaited,
    ended,
    entered,
    mailer,
    results,
    runner_of,
    sync,
    texts,
)


@pytest.fixture(params=RUNS)
def run(request):
    return RUNS[request.param]


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.fixture
def tools():
    return Tools()


def statuses(plane: Any) -> list[str]:
    return [e.status for e in plane.events(type="session.closed")]


def test_an_allowed_tool_runs_and_is_recorded_in_a_session_named_like_the_agent(plane, model, tools, run, way):
    model.add(calls(IN), says("All ", "sent."))
    runner = runner_of(mailer(tools))
    events = way(runner, run)
    assert texts(events) == "All sent."
    assert tools.ran == [("send", "ann@acme.com")]
    assert ended(plane) == [
        ("gemini-2.5-flash", "completed"),
        ("send", "completed"),
        ("gemini-2.5-flash", "completed"),
    ]
    (session,) = plane.engine.store.read.sessions()
    assert (session.name, session.kind) == ("mailer", "run")
    assert statuses(plane) == ["completed"]
    assert {e.session_id for e in plane.events(type="call.decided")} == {session.session_id}


def test_a_blocked_tool_never_runs_and_the_run_ends_with_the_refusal(plane, model, tools, run, way):
    model.add(calls(OUT), says("never"))
    with pytest.raises(PolicyBlockError, match="inside"):
        way(runner_of(mailer(tools)), run)
    assert tools.ran == []
    assert len(model.seen) == 1
    assert statuses(plane) == ["failed"]


def test_a_model_is_told_of_a_refusal_where_the_guard_tells(plane, model, tools, run, way):
    model.add(calls(OUT), calls(IN), says("Done."))
    events = way(runner_of(mailer(tools)), run, on_block="tell")
    assert "Not done: " in str(results(events)[0]["error"])
    assert "Not done: " in model.seen[1].text
    assert tools.ran == [("send", "ann@acme.com")]
    assert statuses(plane) == ["completed"]


def test_arguments_and_results_are_redacted(plane, model, tools, run, way):
    model.add(calls(("look", {"text": "ann@acme.com"})), says("Done."))
    events = way(runner_of(mailer(tools)), run)
    assert tools.ran == [("look", "[EMAIL]")]
    assert results(events) == [{"found": "[EMAIL] [EMAIL]"}]
    assert "bob@acme.com" not in model.told()


def test_an_agent_of_too_low_a_tier_runs_nothing(plane, model, tools, run):
    model.add(calls(("wipe", {})))
    with pytest.raises(TrustTierDenied):
        entered(runner_of(mailer(tools)), run)
    assert tools.ran == []


def test_a_tool_that_changed_since_it_was_pinned_never_runs(plane, model, tools, run):
    plane.settings("""
        [tools]
        integrity = "first-use"
    """)

    def pinned(addition: str) -> Any:
        def book(seat: str) -> str:
            """Book a seat."""
            tools.ran.append(seat)
            return seat

        book.__doc__ = f"Book a seat{addition}."
        return runner_of(mailer(tools, tools=[book]))

    model.add(calls(("book", {"seat": "1A"})), says("Done."), calls(("book", {"seat": "1B"})))
    entered(pinned(""), sync)
    with pytest.raises(ToolIntegrityViolation):
        entered(pinned(", and another one"), run)
    assert tools.ran == ["1A"]


def test_nothing_runs_where_the_plane_cannot_be_reached(model, tools, run, monkeypatch):
    monkeypatch.setenv("TAPPASS_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TAPPASS_API_KEY", "x")
    model.add(calls(IN))
    with pytest.raises(TapPassConnectionError):
        entered(runner_of(mailer(tools)), run)
    assert tools.ran == []
    assert model.seen == []


def test_a_failing_tool_is_recorded_as_failed_and_its_error_comes_out(here, model, tools):
    model.add(calls(("fail", {})))
    with pytest.raises(KeyError, match="mine"):
        entered(runner_of(mailer(tools)), awaited)
    assert ("fail", "failed") in ended(here)
    assert statuses(here) == ["failed"]


def test_parallel_calls_of_one_answer_are_each_decided(here, model, tools):
    model.add(calls(IN, ("send", {"to": "bob@acme.com"}), ("look", {"text": "x"})), says("Done."))
    entered(runner_of(mailer(tools)), awaited)
    assert sorted(ended(here)[1:-1]) == [("look", "completed"), ("send", "completed"), ("send", "completed")]


def test_an_agent_alone_gets_a_runner(here, model, tools):
    model.add(calls(IN), says("Done."))
    with guard_adk_agent(mailer(tools)) as guarded:
        events = sync(guarded)
        assert guarded.session.audit_url
    assert texts(events) == "Done."
    assert tools.ran == [("send", "ann@acme.com")]


def test_what_runs_no_agent_is_refused(tools):
    agent = mailer(tools)
    with pytest.raises(TapPassConfigError, match="how ADK runs an agent inside a runner"):
        guard_adk_agent(agent.run_async)
    with pytest.raises(TapPassConfigError, match="how ADK runs an agent inside a runner"):
        guard_adk_agent()(agent.run_async)
    with pytest.raises(TapPassConfigError, match="not a int"):
        guard_adk_agent(3)


@pytest.mark.parametrize("given", ["runner", "agent", "nothing"])
def test_a_function_of_the_users_that_runs_an_agent_is_governed(given, here, model, tools):
    agent = mailer(tools)
    runner = runner_of(agent)

    @guard_adk_agent(name="job")
    def job(what: Any = None) -> list[Any]:
        return sync({"runner": runner, "agent": None, "nothing": None}[given] or runner_of(what or agent))

    model.add(calls(OUT))
    with pytest.raises(PolicyBlockError):
        job(runner) if given == "runner" else job(agent) if given == "agent" else job()
    assert tools.ran == []
    assert statuses(here)[-1] == "failed"


def test_a_coroutine_function_of_the_users_is_governed(here, model, tools):
    @guard_adk_agent_async()
    async def job(runner: Any) -> list[Any]:
        return [event async for event in runner.run_async(**asked())]

    model.add(calls(OUT))
    with pytest.raises(PolicyBlockError):
        asyncio.run(job(runner_of(mailer(tools))))
    assert tools.ran == []


def test_afterwards_the_runner_its_agent_and_its_tools_are_as_they_were(here, model, tools):
    from google.adk.plugins.plugin_manager import PluginManager
    from google.adk.tools import FunctionTool

    tool = FunctionTool(tools.functions[0])
    runner = runner_of(mailer(tools, tools=[tool]))
    manager, made = runner.plugin_manager, PluginManager.__init__
    before = dict(vars(manager)), dict(vars(tool)), manager.plugins
    model.add(calls(IN), says("Done."), calls(OUT))
    entered(runner, sync)
    with pytest.raises(PolicyBlockError):
        entered(runner, awaited)
    assert ({**vars(manager)}, vars(tool).keys()) == (before[0], before[1].keys())
    assert manager.plugins is before[2]
    assert PluginManager.__init__ is made
    model.add(calls(OUT), says("Ungoverned."))
    assert texts(sync(runner)) == "Ungoverned."
    assert tools.ran[-1] == ("send", "eve@evil.example")


def test_runs_of_one_runner_in_parallel_never_mix(here, model, tools):
    runner = runner_of(mailer(tools))
    barrier = threading.Barrier(3)
    sessions: dict[str, str] = {}
    failed: list[Any] = []

    def guarded_run(name: str) -> None:
        try:
            with guard_adk_agent(runner, name=name) as guarded:
                sessions[name] = guarded.session.session_id
                barrier.wait()
                for i in range(3):
                    list(guarded.run(**asked(f"{name}{i}")))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded_run, args=(name,)) for name in ("a", "b")]
    [thread.start() for thread in threads]
    barrier.wait()
    list(runner.run(**asked("bare")))
    [thread.join() for thread in threads]
    assert failed == []
    for session_id in sessions.values():
        assert len(here.events(type="call.decided", session_id=session_id)) == 3
    assert len(here.events(type="call.decided")) == 6
    assert runner.plugin_manager.plugins == []


def test_tasks_in_parallel_never_mix(here, model, tools):
    runner = runner_of(mailer(tools))

    async def one(name: str) -> str:
        async with guard_adk_agent(runner, name=name) as guarded:
            for i in range(3):
                assert [event async for event in guarded.run_async(**asked(f"{name}{i}"))]
            return guarded.session.session_id

    async def main() -> list[str]:
        return await asyncio.gather(one("a"), one("b"))

    for session_id in asyncio.run(main()):
        assert len(here.events(type="call.decided", session_id=session_id)) == 3


@pytest.mark.parametrize("how", ["closed", "dropped", "never begun"])
def test_a_run_that_is_left_closes_its_session(how, here, model, tools):
    model.add(calls(IN), says("Done."))
    runner = runner_of(mailer(tools))
    stream = guard_adk_agent()(runner.run)(**asked())
    if how != "never begun":
        next(stream)
    if how == "closed":
        stream.close()
    del stream
    gc.collect()
    assert statuses(here) == ([] if how == "never begun" else ["completed"])
    assert runner.plugin_manager.plugins == []


@pytest.mark.parametrize("config", ["plain", "sse"])
def test_an_async_run_that_is_left_closes_its_session(config, here, model, tools):
    model.add(calls(IN), says("Done."))
    runner = runner_of(mailer(tools))

    async def main() -> None:
        stream = guard_adk_agent()(runner.run_async)(**asked())
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(main())
    assert statuses(here) == ["completed"]
    assert runner.plugin_manager.plugins == []


def test_a_run_goes_on_being_governed_after_the_block_that_began_it(here, model, tools):
    model.add(calls(OUT))
    with guard_adk_agent(runner_of(mailer(tools))) as guarded:
        stream = guarded.run(**asked())
    with pytest.raises(PolicyBlockError):
        list(stream)
    assert tools.ran == []
    assert statuses(here) == ["failed"]


def test_the_callers_code_is_not_in_the_session(here, model, tools):
    model.add(calls(IN), says("Done."))
    for _ in guard_adk_agent()(runner_of(mailer(tools)).run)(**asked()):
        assert current_session() is None


def test_a_guard_in_a_guard_is_a_child_and_only_the_inner_one_speaks(here, model, tools):
    runner = runner_of(mailer(tools))
    model.add(calls(IN), says("Done."))
    with guard_adk_agent(runner, name="outer") as outer, guard_adk_agent(runner, name="inner") as inner:
        sync(inner)
    assert {e.session_id for e in here.events(type="call.decided")} == {inner.session.session_id}
    assert inner.session.parent == outer.session.session_id


def test_a_tool_that_is_interrupted_is_recorded(here, model, tools):
    started = asyncio.Event()

    async def wait() -> None:
        """Wait."""
        started.set()
        await asyncio.sleep(3600)

    runner = runner_of(mailer(tools, tools=[wait]))
    model.add(calls(("wait", {})))

    async def main() -> None:
        async def run() -> None:
            async for _ in guard_adk_agent()(runner.run_async)(**asked()):
                pass

        task = asyncio.ensure_future(run())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ("wait", "cancelled") in ended(here)
