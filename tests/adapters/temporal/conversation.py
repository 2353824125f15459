"""A workflow that runs the tools an agent asks for, one update each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy

from tappass import governed_workflow


@governed_workflow
@workflow.defn
class Conversation:
    def __init__(self) -> None:
        self.over = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.over and workflow.all_handlers_finished())
        return "over"

    @workflow.update
    async def call(self, tool: str, args: list[Any]) -> str:
        once = RetryPolicy(maximum_attempts=1)
        timeout = timedelta(seconds=60)
        return str(await workflow.execute_activity(tool, args=args, start_to_close_timeout=timeout, retry_policy=once))

    @workflow.signal
    def end(self) -> None:
        self.over = True
