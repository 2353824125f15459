"""Real Temporal servers for tests: the development server, and the one that skips time."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

READY_S = 60.0


def binary(name: str) -> str:
    """Return where a server's program lies: on the path, else beside this interpreter."""
    return shutil.which(name) or os.path.join(os.path.dirname(sys.executable), name)


@contextmanager
def development_server() -> Iterator[str]:
    """Yield the address of a development server of this process's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    words = ["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port), "--log-level", "never"]
    server = subprocess.Popen(
        [binary("temporal"), *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + READY_S
        while not _listens(port):
            assert server.poll() is None, "the Temporal server ended"
            assert time.monotonic() < until, "the Temporal server did not come up"
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
