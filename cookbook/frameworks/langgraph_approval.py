"""LangGraph: a payment interrupts the graph, a person approves it, and the same run goes on from its checkpoint.

You get an approval that is an ordinary LangGraph interrupt: nothing waits in memory, `Command(resume=...)` goes on in
the same session, and the tool runs once. Needs `tappass[langchain]`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command

from tappass import guard_agent

POLICY = """
version: 1
rules:
  - {id: large-payments, tool: pay, when: args.amount > 1000, effect: require_approval, expires_in: 1d}
"""
paid: list[tuple[str, float]] = []


def pay(to: str, amount: float) -> str:
    """Pay somebody."""
    paid.append((to, amount))
    return f"paid {amount} to {to}"


def model(state: MessagesState) -> dict[str, list[AIMessage]]:
    """Stand in for a model, so that this runs offline: it pays, then says what came of it."""
    last = state["messages"][-1]
    if last.type == "tool":
        return {"messages": [AIMessage(f"Done: {last.content}")]}
    return {
        "messages": [AIMessage("", tool_calls=[{"name": "pay", "args": {"to": "Acme", "amount": 5000.0}, "id": "1"}])]
    }


def build() -> StateGraph:
    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_node("tools", ToolNode([pay]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END)
    graph.add_edge("tools", "model")
    return graph


def tappass(*words: str) -> str:
    """Do what a person does at the command line."""
    return subprocess.run([sys.executable, "-m", "tappass", *words], check=True, capture_output=True, text=True).stdout


def main() -> None:
    Path("policy.yaml").write_text(POLICY, encoding="utf-8")
    tappass("init")  # makes the approver key
    invoke = guard_agent(name="payments")(build().compile(checkpointer=InMemorySaver()).invoke)
    config = {"configurable": {"thread_id": "1"}}

    stopped = invoke({"messages": [("user", "Pay Acme what we owe.")]}, config)
    (interrupt,) = stopped["__interrupt__"]
    print("waits for people:", interrupt.value["reason"])
    assert paid == []

    (held,) = json.loads(tappass("approvals", "list", "--json"))
    assert held["action"]["arguments"] == {"to": "Acme", "amount": 5000.0}
    tappass("approvals", "approve", held["approval_id"], "--reason", "a known supplier", "--yes")

    print(invoke(Command(resume=True), config)["messages"][-1].content)
    assert paid == [("Acme", 5000.0)]


if __name__ == "__main__" and sys.argv[1:] == ["here"]:
    main()
elif __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        own = {"XDG_CONFIG_HOME": f"{place}/config", "TAPPASS_URL": "embedded:"}  # a key and a plane of its own
        sys.exit(subprocess.run([sys.executable, __file__, "here"], cwd=place, env=os.environ | own).returncode)
