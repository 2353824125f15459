"""An agent in a process of its own: so many calls in one session, their ids on stdout; then it waits to be killed."""

from __future__ import annotations

import sys
import time

from tappass import current_session, tappass_session, tool


@tool(name="work")
def work(n: int) -> None:
    session = current_session()
    assert session is not None
    print(session.task_id, flush=True)


calls, then = int(sys.argv[1]), sys.argv[2]
with tappass_session(name="outboxed") as session:
    print(session.session_id, flush=True)
    for n in range(calls):
        work(n)
    print("done", flush=True)
    if then == "hang":
        time.sleep(60)
