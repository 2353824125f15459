"""The fifth of the five: a Temporal worker."""

from __future__ import annotations

import asyncio
import os

from temporalio.client import Client
from temporalio.worker import Worker

from tappass import TapPassPlugin
from tests.adapters.five_processes.settling import QUEUE, Settlement, settle
from tests.adapters.five_processes.standing import ready


async def main() -> None:
    client = await Client.connect(os.environ["NEXT"], plugins=[TapPassPlugin()])
    # Nothing is kept for a worker that may be dead: its next task is anybody's.
    async with Worker(client, task_queue=QUEUE, workflows=[Settlement], activities=[settle], max_cached_workflows=0):
        ready()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
