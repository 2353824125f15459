"""The workflow, and the activity that is the last hop of all."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow

from tappass import governed_workflow

with workflow.unsafe.imports_passed_through():
    from tests.adapters.five_processes.standing import note

QUEUE = "settlements"


@activity.defn
async def settle(order: str, amount: int) -> str:
    note("settle", order=order, amount=amount)
    return f"{order}: {amount} settled"


@governed_workflow
@workflow.defn
class Settlement:
    @workflow.run
    async def run(self, order: str, amount: int) -> str:
        return await workflow.execute_activity(
            settle, args=[order, amount], start_to_close_timeout=timedelta(seconds=5)
        )
