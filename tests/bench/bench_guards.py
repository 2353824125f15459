"""What a governed tool call costs in a framework, beside the same run without a guard, and beside the plane's own cost.

    scripts/setup frameworks && .venv-frameworks/bin/python -m tests.bench.bench_guards

A framework that is not installed is left out. Each run makes `CALLS` tool calls; governed and ungoverned runs take
turns, and the medians are compared. "Over the plane" is what is left of the difference once the decision and the
settling of a plain governed function are taken off.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tappass import tappass_session, tool

CALLS, ROUNDS = 200, 9

Run = Callable[[bool], None]


def langchain() -> Run:
    """An agent's tool, invoked as a ToolNode does, inside a guard and without one."""
    from langchain_core.messages import AIMessage
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    from tappass import guard_agent

    def look(text: str) -> str:
        """Look."""
        return text

    wanted = [{"name": "look", "args": {"text": f"n{number}"}, "id": f"c{number}"} for number in range(CALLS)]
    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode([look]))
    builder.add_edge(START, "tools")
    builder.add_edge("tools", END)
    graph = builder.compile()
    guarded = guard_agent()(graph.invoke)
    state: Any = {"messages": [AIMessage("", tool_calls=wanted)]}
    return lambda governed: (guarded if governed else graph.invoke)(state)  # type: ignore[return-value]


FRAMEWORKS: dict[str, Callable[[], Run]] = {"langgraph": langchain}


def plane_us() -> float:
    """Return what the embedded plane takes for one call of a governed function, in microseconds."""

    def look_alone(text: str) -> str:
        return text

    governed = tool(look_alone)

    def all_calls(call: Callable[[str], str]) -> None:
        with tappass_session():
            for number in range(CALLS):
                call(f"n{number}")

    return compared(lambda with_plane: all_calls(governed if with_plane else look_alone))


def compared(run: Run) -> float:
    """Return how much longer a call takes when it is governed, in microseconds: the median of the differences."""
    run(True)
    run(False)
    differences = []
    for _ in range(ROUNDS):
        times = {}
        for governed in (False, True):
            began = time.perf_counter()
            run(governed)
            times[governed] = time.perf_counter() - began
        differences.append((times[True] - times[False]) / CALLS * 1e6)
    return statistics.median(differences)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TAPPASS_URL"] = f"sqlite:///{Path(folder) / 'tappass.db'}"
        own = plane_us()
        print(f"{'plain function':<18} {own:8.0f} us a call: the plane's own cost")
        for name, make in FRAMEWORKS.items():
            try:
                run = make()
            except ImportError:
                print(f"{name:<18} is not installed here")
                continue
            more = compared(run)
            print(f"{name:<18} {more:8.0f} us a call, {more - own:6.0f} over the plane")


if __name__ == "__main__":
    main()
