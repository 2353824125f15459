"""Real Temporal servers for tests: the development server, and the one that skips time."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

READY_S = 60.0
# FastMCP brings an import hook that has each sandbox import beartype anew, a second for every workflow. Where tests of
# both are one process, it is let through.
SANDBOX = SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules("beartype"))


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
        while not asyncio.run(_serves(f"127.0.0.1:{port}")):
            assert server.poll() is None, "the Temporal server ended"
            assert time.monotonic() < until, "the Temporal server did not come up"
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


async def _serves(address: str) -> bool:
    try:
        client = await Client.connect(address)
        return await client.service_client.check_health()
    except (RuntimeError, RPCError):
        return False
