"""Break-glass: two people relax a rule for half an hour, and everything done under it is on record.

You get an override that nobody opens alone, `BreakGlassActive` where code has not agreed to act under one, what each
decision would have been, and a review at the end. It runs in a directory of its own, with approver keys of its own.
"""

import json
import os
import subprocess
import sys
import tempfile

from tappass import BreakGlassActive, PolicyBlockError, tappass_session, tool

POLICY = """
version: 1
rules:
  - {id: production-is-closed, tool: restart, effect: block}
"""


@tool
def restart(service: str) -> str:
    """Restart a service in production."""
    return f"{service} restarted"


def tappass(*words: str, key: str = "", fails: bool = False) -> str:
    """Do what a person does at the command line, with that person's approver key."""
    mine = os.environ | ({"TAPPASS_APPROVER_KEY": key} if key else {})
    done = subprocess.run([sys.executable, "-m", "tappass", *words], env=mine, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stdout


def attempt(*, respect: bool) -> str:
    with tappass_session(agent="on-call", respect_breakglass=respect) as session:
        try:
            said = restart("billing")
        except (PolicyBlockError, BreakGlassActive) as error:
            return type(error).__name__
        assert session.break_glass is not None, "the fact is on the session"
        return f"{said}, under {session.break_glass.level}"


def main() -> None:
    with open("policy.yaml", "w") as policy:
        policy.write(POLICY)
    tappass("init")
    grace = json.loads(tappass("approvers", "add", "grace", "--json"))["key"]
    print("as on any day:        ", first := attempt(respect=True))

    words = (
        "--level",
        "full_bypass",
        "--scope",
        "restart agent:on-call",
        "--for",
        "30m",
        "--reason",
        "billing is down",
    )
    glass = json.loads(tappass("break-glass", "activate", *words, "--json"))["break_glass_id"]
    tappass("break-glass", "confirm", glass, fails=True)  # who asked may not confirm
    tappass("break-glass", "confirm", glass, key=grace)
    print("code that has not agreed:", second := attempt(respect=False))
    print("code that has:        ", third := attempt(respect=True))
    tappass("break-glass", "end", glass, key=grace)
    print("afterwards:           ", last := attempt(respect=True))
    assert (first, second, last) == ("PolicyBlockError", "BreakGlassActive", "PolicyBlockError")
    assert third == "billing restarted, under full_bypass"

    assert "waits for a review" in tappass("break-glass")
    tappass("break-glass", "review", glass, "--text", "one restart; the rule stays", key=grace)
    events = [json.loads(line) for line in tappass("audit", "tail", "-n", "100", "--json").splitlines()]
    used = [e for e in events if e["type"] == "break_glass.used"]
    print("would have been:      ", [e["would_be"] for e in used])
    assert [e["would_be"] for e in used] == ["block", "block"]


if __name__ == "__main__" and sys.argv[1:] == ["here"]:
    main()
elif __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        own = {"XDG_CONFIG_HOME": f"{place}/config", "TAPPASS_URL": "embedded:", "PYTHONUTF8": "1"}
        sys.exit(subprocess.run([sys.executable, __file__, "here"], cwd=place, env=os.environ | own).returncode)
