"""Eight processes of four threads, two of them killed on the way: one budget, spent to the last unit and no further."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tappass.plane.connect import connect
from tappass.wire.chat import Usage
from tappass.wire.decisions import Action, DecisionRequest
from tappass.wire.endings import Ending
from tappass.wire.ids import UUID_IDS
from tappass.wire.sessions import Opening

PROCESSES, THREADS, CALLS, LIMIT = 8, 4, 25, 250
CAPABILITIES = ("redact_arguments", "scan_result")


def spend(url: str, parent: str, kind: str, ready: Any, go: Any) -> None:
    plane = connect(url)
    ready.release()
    go.wait(60)

    def work() -> None:
        session = plane.sync.open(Opening(parent=parent)).session_id
        for _ in range(CALLS):
            task = UUID_IDS.new("tsk")
            arguments: dict[str, Any] = {}
            if kind == "llm":
                arguments = {"messages": [], "tools": [], "parameters": {"max_tokens": 40}}
            action = Action(kind=kind, name="work", arguments=arguments)
            asked = DecisionRequest(action=action, session_id=session, task_id=task, capabilities=CAPABILITIES)
            if plane.sync.decide(asked).outcome == "allow":
                usage = Usage(prompt_tokens=20, completion_tokens=20, total_tokens=40)
                plane.sync.settle(
                    Ending(session_id=session, task_id=task, status="completed", duration_us=1, usage=usage)
                )

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plane.shutdown()


def run(policy: str, kind: str) -> tuple[list[Any], dict[tuple[str, str], int]]:
    Path("policy.yaml").write_text(policy)
    url = f"sqlite:///{Path.cwd()}/.tappass/tappass.db"
    plane = connect(url)
    root = plane.sync.open(Opening(name="root")).session_id
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Event()
    processes = [context.Process(target=spend, args=(url, root, kind, ready, go)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for _ in processes:
        assert ready.acquire(timeout=60)
    go.set()
    for process in processes[:2]:
        process.join(0.3)
        process.kill()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes[2:]] == [0] * (PROCESSES - 2)
    assert {process.exitcode for process in processes[:2]} <= {0, -signal.SIGKILL}
    rows = plane.engine.store.read.query("SELECT scope, subject, used FROM budget WHERE scope <> 'call'")
    used = {(scope, subject): used for scope, subject, used in rows}
    return list(plane.engine.store.read.all_events()), used | {("root", ""): used.get(("session", root), 0)}


@pytest.mark.alone
@pytest.mark.parametrize("scope", ["session", "agent", "day"])
def test_tool_calls_of_many_processes_spend_a_budget_to_the_last_call_and_no_further(scope):
    events, used = run(f"version: 1\nbudgets: {{{scope}: {{tool_calls: {LIMIT}}}}}", "tool")
    outcomes = [event.outcome for event in events if event.type == "call.decided"]
    assert outcomes.count("allow") == LIMIT
    assert outcomes.count("block") > 0
    spent = used["root", ""] if scope == "session" else next(n for (of, _), n in used.items() if of == scope)
    assert spent == LIMIT


@pytest.mark.alone
def test_tokens_of_many_processes_never_stand_above_their_limit_and_come_out_as_they_were_counted():
    limit = 3000
    events, used = run(f"version: 1\nbudgets: {{session: {{llm_tokens: {limit}}}}}", "llm")
    seen = [
        int(entry.partition(":")[2].partition("/")[0])
        for event in events
        for entry in event.budgets
        if event.type == "call.decided"
    ]
    assert max(seen) <= limit
    took = [event for event in events if event.type == "call.ended"]
    assert {event.budgets for event in took} == {("llm_tokens:40",)}
    reserved = len('{"messages":[],"tools":[],"parameters":{"max_tokens":40}}') + 40
    lost = sum(event.outcome == "allow" for event in events if event.type == "call.decided") - len(took)
    assert used["root", ""] == 40 * len(took) + reserved * lost
    assert 0 < used["root", ""] <= limit
