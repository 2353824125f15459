"""Stop a runaway agent: so many tool calls a session, and no mail among the last of them.

You get limits that hold whatever the agent does: in a loop, in threads, in sessions inside the session. The call that
would go over a limit does not run, and the error names the budget, its limit and what is used.
"""

from concurrent.futures import ThreadPoolExecutor

from tappass import PolicyBlockError, carry, tappass_session, tool
from tappass.testing import memory_plane

POLICY = """
version: 1
rules:
  - id: no-mail-late-in-the-session
    tool: send_mail
    when: budget.session.tool_calls >= 5
    effect: block
    message: the last calls of a session are for reading
budgets:
  session: {tool_calls: 8}
  day: {tool_calls: 1000, usd: 20}
"""


@tool
def search(query: str) -> str:
    """Search the web."""
    return f"three hits for {query}"


@tool
def send_mail(to: str) -> str:
    """Send a mail."""
    return f"sent to {to}"


def attempt(query: str) -> str:
    """Try once more, as agents do; return what refused it, if anything did."""
    try:
        search(query)
    except PolicyBlockError as error:
        return error.blocked_by
    return ""


def main() -> None:
    with memory_plane(POLICY) as plane, tappass_session(name="research"):
        print(send_mail("ann@example.com"))

        # Twenty attempts in four threads: seven are left, and seven run.
        with ThreadPoolExecutor(4) as threads:
            refusals = list(threads.map(carry(attempt), [f"chair {n}" for n in range(20)]))
        print(f"{refusals.count('')} of 20 searches ran")
        assert sorted(refusals) == [""] * 7 + ["budget.session.tool_calls"] * 13

        # A session inside the session has no budget of its own to fall back on.
        with tappass_session(name="helper"):
            assert attempt("tables") == "budget.session.tool_calls"

        # A rule may read what is spent, long before the limit is reached.
        try:
            send_mail("bob@example.com")
        except PolicyBlockError as error:
            print(error)
            refused = error
        assert refused.blocked_by == "no-mail-late-in-the-session"

        # The log says after each decision where the budgets stood.
        last = [event.budgets for event in plane.events(type="call.decided", outcome="allow")][-1]
        print(*last)
        assert last == ("day.tool_calls:8/1000", "session.tool_calls:8/8")


if __name__ == "__main__":
    main()
