"""Workflows whose decorator names a plane of its own."""

from __future__ import annotations

from temporalio import workflow

from tappass import governed_workflow


@governed_workflow(url="https://another.example", api_key="tp_other")
@workflow.defn
class Elsewhere:
    @workflow.run
    async def run(self) -> None: ...


@governed_workflow(api_key="tp_other")
@workflow.defn
class WithKey:
    @workflow.run
    async def run(self) -> None: ...
