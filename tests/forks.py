"""Children made by `os.fork()`: what goes wrong in one is shown in the test, and none can hang it."""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from typing import IO

TIMEOUT_S = 60.0


def in_child(action: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    """Fork, and call an action in the child; fails with the child's traceback unless the action returns in time."""
    start(action, timeout_s)()


def start(action: Callable[[], object], timeout_s: float = TIMEOUT_S) -> Callable[[], None]:
    """Fork, and call an action in the child; return what waits for its end, and fails as `in_child` does."""
    # Not closed by whichever side comes first: each has a copy.
    said = tempfile.TemporaryFile("w+")  # noqa: SIM115
    with warnings.catch_warnings():
        # Python 3.12 and later warn of any fork among threads: which is what these tests are about.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _be_child(action, said)

    def wait() -> None:
        with said:
            status = _waited(pid, timeout_s)
            said.seek(0)
            assert status == 0, f"the child was to end with 0, not {status}; it said:\n{said.read()}"

    return wait


def _be_child(action: Callable[[], object], said: IO[str]) -> None:
    status = 1
    try:
        # Says where every thread stands, also one that hangs inside a library. Not `dump_traceback_later`: a child
        # would wait for the watchdog that pytest has started in its parent.
        faulthandler.register(signal.SIGUSR1, file=said)
        action()
        status = 0
    except BaseException:
        traceback.print_exc(file=said)
        said.flush()
    finally:
        os._exit(status)


def _waited(pid: int, timeout_s: float) -> int | str:
    if (status := _ended(pid, timeout_s)) is not None:
        return status
    os.kill(pid, signal.SIGUSR1)
    if _ended(pid, 1) is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return f"to hang for {timeout_s:.0f} s"


def _ended(pid: int, timeout_s: float) -> int | None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None
