"""Let people decide a payment: one process asks and ends, a person approves, another process runs it, once.

You get a call that waits in the database and not in a process: nobody has to stay up for the answer. The person sees
exactly what will run, and exactly that runs. Real processes, a real file that shows every payment.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tappass import ApprovalRequired, PolicyBlockError, resume, tappass_session, tool

POLICY = """
version: 1
rules:
  - id: large-payments
    tool: pay
    when: args.amount > 1000
    effect: require_approval
    expires_in: 1d
    message: Compare the amount with the invoice first
"""
ME, PAID, TOKEN = str(Path(__file__).resolve()), Path("paid.txt"), Path("token.txt")


@tool
def pay(to: str, amount: float) -> None:
    """Pay somebody: a line for each payment that really happened."""
    with PAID.open("a", encoding="utf-8") as file:
        file.write(f"{to} {amount}\n")


def ask() -> None:
    try:
        with tappass_session(name="payments", agent="bookkeeper"):
            pay("Acme", 5000.0)
    except ApprovalRequired as error:
        TOKEN.write_text(error.resume_token, encoding="utf-8")
        print(f"held until {error.expires_at}")


def go_on() -> None:
    try:
        with resume(TOKEN.read_text(encoding="utf-8")):
            pay("Acme", 5000.0)
        print("paid")
    except PolicyBlockError as error:
        print(error.blocked_by)


def program(*words: str) -> str:
    """Run a process of its own to its end; return what it said."""
    return subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    print(program(ME, "ask"))
    assert not PAID.exists()

    program("-m", "tappass", "init")  # makes the approver key
    (held,) = json.loads(program("-m", "tappass", "approvals", "list", "--json"))
    assert held["action"]["arguments"] == {"to": "Acme", "amount": 5000.0}
    approve = ["approvals", "approve", held["approval_id"], "--reason", "a known supplier", "--yes"]
    print(program("-m", "tappass", *approve).splitlines()[-1])

    print(answers := [program(ME, "go on") for _ in range(2)])
    assert answers == ["paid", "approval-used"]
    assert PAID.read_text(encoding="utf-8") == "Acme 5000.0\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        ask() if sys.argv[1] == "ask" else go_on()
    else:
        with tempfile.TemporaryDirectory() as directory:
            os.environ |= {"XDG_CONFIG_HOME": directory, "TAPPASS_URL": "embedded:"}  # a key and a plane of its own
            os.chdir(directory)
            Path("policy.yaml").write_text(POLICY, encoding="utf-8")
            main()
