"""Temporal: a workflow that waits for people as long as they take, and pays once they have agreed.

You get one decorator and one plugin: every activity decided in its worker before it runs, an approval that the workflow
waits for durably, one session per execution. Needs `tappass[temporal]`, and a server: `temporal server start-dev`.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

from tappass import TapPassPlugin, governed_workflow

POLICY = """
version: 1
rules:
  - {id: large-payments, tool: pay, when: args.amount > 1000, effect: require_approval, expires_in: 30d}
"""
paid: list[tuple[str, float]] = []


@activity.defn
def pay(to: str, amount: float) -> str:
    """Pay somebody."""
    paid.append((to, amount))
    return f"{amount} paid to {to}"


@governed_workflow
@workflow.defn
class Payout:
    """Pays one bill."""

    @workflow.run
    async def run(self, to: str, amount: float) -> str:
        """Return what became of it."""
        return await workflow.execute_activity(pay, args=[to, amount], start_to_close_timeout=timedelta(minutes=1))


def tappass(*words: str) -> str:
    """Do what a person does at the command line."""
    return subprocess.run([sys.executable, "-m", "tappass", *words], check=True, capture_output=True, text=True).stdout


async def main() -> None:
    address = os.environ.get("TEMPORAL_ADDRESS", "localhost:7233")
    client = await Client.connect(address, plugins=[TapPassPlugin(approval_poll_s=0.5)])
    bills = {"task_queue": "bills", "workflows": [Payout], "activities": [pay]}
    async with Worker(client, **bills, activity_executor=ThreadPoolExecutor(4)):
        handle = await client.start_workflow(
            Payout.run, args=["Acme", 5000.0], id=f"bill-{os.getpid()}", task_queue="bills"
        )
        while not (waits := await handle.query("tappass_waiting")):
            await asyncio.sleep(0.2)
        assert paid == []
        (held,) = waits
        print("waits for people:", held["approval_url"].rpartition("/")[0])
        approval_id = held["approval_url"].rpartition("/")[2]
        await asyncio.to_thread(tappass, "approvals", "approve", approval_id, "--reason", "a known supplier", "--yes")
        print(await handle.result())
    assert paid == [("Acme", 5000.0)]


if __name__ == "__main__" and sys.argv[1:] == ["here"]:
    Path("policy.yaml").write_text(POLICY, encoding="utf-8")
    tappass("init")  # makes the approver key
    asyncio.run(main())
elif __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        own = {"XDG_CONFIG_HOME": f"{place}/config", "TAPPASS_URL": "embedded:"}  # a key and a plane of its own
        sys.exit(subprocess.run([sys.executable, __file__, "here"], cwd=place, env=os.environ | own).returncode)
