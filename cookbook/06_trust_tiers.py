"""Trust tiers: an agent does what its tier allows, and a person changes the tier while it works.

You get `TrustTierDenied` before anything runs, a tier that counts in the session that is open, and a history that
names who changed it and why. It runs in a directory of its own, with an approver key of its own.
"""

import os
import subprocess
import sys
import tempfile

from tappass import TrustTierDenied, tappass_session, tool

POLICY = """
version: 1
rules:
  - {id: money-needs-trust, tool: refund, effect: require_tier, tier: trusted}
"""

paid: list[float] = []


@tool
def refund(customer: str, amount: float) -> str:
    """Pay money back."""
    paid.append(amount)
    return f"{amount} back to {customer}"


@tool(min_tier="privileged")
def close_account(customer: str) -> str:
    """Needs the highest tier, whatever the policy says."""
    return f"{customer} is gone"


def tappass(*words: str) -> str:
    """Do what a person does at the command line."""
    return subprocess.run([sys.executable, "-m", "tappass", *words], check=True, capture_output=True, text=True).stdout


def main() -> None:
    with open("policy.yaml", "w") as policy:
        policy.write(POLICY)
    tappass("init")
    with tappass_session(agent="support-bot"):
        try:
            refund("Ann", 20)
        except TrustTierDenied as error:
            print(f"denied: needs {error.required_tier}, has {error.actual_tier}")
        assert paid == []

        # Meanwhile, a person at another terminal:
        print(tappass("agents", "set-tier", "support-bot", "trusted", "--reason", "a month without complaints"), end="")

        print(refund("Ann", 20))  # the same session, the same call
        try:
            close_account("Ann")
        except TrustTierDenied as error:
            needed = error.required_tier
    assert needed == "privileged"
    assert paid == [20]
    history = tappass("agents", "history", "support-bot")
    print(history, end="")
    assert "standard → trusted" in history
    assert "a month without complaints" in history


if __name__ == "__main__" and sys.argv[1:] == ["here"]:
    main()
elif __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        own = {"XDG_CONFIG_HOME": f"{place}/config", "TAPPASS_URL": "embedded:", "PYTHONUTF8": "1"}
        sys.exit(subprocess.run([sys.executable, __file__, "here"], cwd=place, env=os.environ | own).returncode)
