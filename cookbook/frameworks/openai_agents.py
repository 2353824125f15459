"""OpenAI Agents SDK: what a tool returns is masked before the model reads it, and who takes over has a session beneath.

You get every run governed by decorating `Runner.run_sync`: personal data masked where policy says so, model calls with
their tokens on record, a session of its own for each agent that takes over. Needs `tappass[openai-agents]`.
"""

from agents import Agent, Runner, function_tool, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message, function_call

from tappass import guard_openai_run
from tappass.testing import memory_plane

POLICY = """
version: 1
rules:
  - {id: mask-customers, tool: read_customer, effect: redact, fields: [result], kinds: [EMAIL]}
"""

run_sync = guard_openai_run(name="help desk")(Runner.run_sync)


@function_tool
def read_customer(number: int) -> str:
    """Read a customer's record."""
    return f"customer {number}: Ann, ann@example.com"


def main() -> None:
    set_tracing_disabled(True)
    # Scripted, so that this runs offline: the first hands over, the second reads and answers.
    asks = [function_call("read_customer", {"number": 7}, call_id="2")]
    second = ScriptedModel([asks, [assistant_message("It is Ann.")]])
    first = ScriptedModel([[function_call("transfer_to_clerk", {}, call_id="1")]])
    clerk = Agent(name="clerk", model=second, tools=[read_customer])
    desk = Agent(name="desk", model=first, handoffs=[clerk])

    with memory_plane(POLICY) as plane:
        print(run_sync(desk, "Who is customer 7?").final_output)
        sessions = {event.session_id: event for event in plane.events(type="session.opened")}
        (read,) = plane.events(type="call.decided", name="read_customer")
        models = plane.events(type="call.decided", kind="llm")
    result = [item["output"] for item in second.last_call.input if item.get("type") == "function_call_output"][-1]
    print("the model read:", result)
    assert result == "customer 7: Ann, [EMAIL]"
    assert sessions[read.session_id].kind == "agent"
    assert sessions[read.session_id].parent in sessions
    assert len(models) == 3


if __name__ == "__main__":
    main()
