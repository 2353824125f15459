"""Processes that ask for, redeem and lose an approval; run by `test_approvals.py`."""

from __future__ import annotations

import os
import signal
import sys

from tappass import ApprovalRequired, PolicyBlockError, resume, tappass_session, tool


@tool
def pay(amount: int) -> str:
    """Leave a line for each payment that really happened."""
    if sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    with open("paid.txt", "a") as file:
        file.write(f"{amount}\n")
    return "paid"


def main() -> None:
    what = sys.argv[1]
    try:
        if what == "ask":
            with tappass_session(name="payments"):
                pay(5000)
        else:
            with resume(sys.argv[2]):
                if what == "together":
                    # Both processes are ready before either goes.
                    print("ready", flush=True)
                    sys.stdin.readline()
                print(pay(5000))
    except ApprovalRequired as error:
        print("asked", error.resume_token)
    except PolicyBlockError as error:
        print("blocked", error.blocked_by)


if __name__ == "__main__":
    main()
