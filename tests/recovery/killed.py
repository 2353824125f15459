"""A process that calls a governed tool until it is killed; run by `test_killed.py`."""

from __future__ import annotations

import os
import sys

from tappass import current_session, tappass_session, tool


@tool
def note(n: int) -> int:
    """Prove on disk that this call ran."""
    session = current_session()
    assert session is not None
    os.write(FILE, f"{session.task_id}\n".encode())
    os.fsync(FILE)
    return n


if __name__ == "__main__":
    FILE = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with tappass_session(name="killed"):
        print("ready", flush=True)
        for n in range(1_000_000):
            note(n)
