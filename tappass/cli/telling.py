"""How the demo tells its story: headings, and programs whose lines are shown as they come."""

from __future__ import annotations

import os
import subprocess
import sys

from tappass.cli.console import say, shown
from tappass.errors import TapPassConfigError


def title(text: str) -> None:
    """Say what comes next."""
    from rich.text import Text

    say("", Text(f"── {text}", style="bold"))


def run_program(program: str, *words: str) -> None:
    """Run an agent as a program of its own, as a user would.

    Raises:
        TapPassConfigError: it failed; what it said is on the screen.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    # In a session of its own: an interrupt is for this command, which then ends the agent.
    with subprocess.Popen(  # noqa: S603 (our own program)
        [sys.executable, program, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment, encoding="utf-8", errors="replace", start_new_session=True,
    ) as agent:  # fmt: skip
        assert agent.stdout is not None
        try:
            for line in agent.stdout:
                say(shown(line.rstrip("\n")))
        except BaseException:
            agent.terminate()
            raise
    if agent.returncode != 0:
        raise TapPassConfigError(f"the demo's agent failed with exit code {agent.returncode}; see its last lines above")
