"""Exit codes, and what becomes of an error: one line on stderr, never a traceback."""

from __future__ import annotations

import os
import sys
import traceback

from tappass.cli.console import complain, shown
from tappass.errors import GovernanceDecision, TapPassConnectionError, TapPassError

OK = 0
NO = 1
USAGE = 2
UNAVAILABLE = 3
INTERRUPTED = 130


def code_of(error: TapPassError) -> int:
    """Return the exit code that an error ends a command with."""
    if isinstance(error, GovernanceDecision):
        return NO
    return UNAVAILABLE if isinstance(error, TapPassConnectionError) else USAGE


def report(error: Exception) -> int:
    """Say on stderr what went wrong; return the exit code."""
    if os.environ.get("TAPPASS_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, TapPassError):
        # A list of problems is one line each; in any other message a line break is somebody's text.
        first, *more = str(error).splitlines() if "problems" in vars(error) else [str(error)]
        complain(first, *more)
        return code_of(error)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    complain(f"this is a bug in tappass ({shown(what, limit=300)}); TAPPASS_DEBUG=1 shows where it happened")
    return USAGE
