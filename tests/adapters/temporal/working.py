"""A worker as a process of its own, to be killed: `python -m tests.adapters.temporal.working ADDRESS QUEUE [URL]`.

The key is TAPPASS_API_KEY's, what ran is written to RAN_FILE.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from temporalio.client import Client
from temporalio.worker import Worker

from tappass import TapPassPlugin
from tests.adapters.temporal import workflows
from tests.serving import python_path


async def main(address: str, queue: str, url: str) -> None:
    plugin = TapPassPlugin(url=url, api_key=os.environ.get("TAPPASS_API_KEY"), approval_poll_s=0.1)
    client = await Client.connect(address, plugins=[plugin])
    worker = Worker(
        client,
        task_queue=queue,
        workflows=workflows.WORKFLOWS,
        activities=workflows.ACTIVITIES,
        activity_executor=ThreadPoolExecutor(4),
    )
    print("ready", flush=True)
    await worker.run()


@contextmanager
def worker_process(address: str, queue: str, url: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a worker's process, ready; it is killed without notice at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.adapters.temporal.working", address, queue, url],
        env={**os.environ, "PYTHONPATH": python_path(), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
