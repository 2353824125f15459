"""Code that a model writes and an executor runs: a tool call named `execute_code`, decided like any other."""

from __future__ import annotations

from typing import Any

from tappass.errors import TapPassError
from tappass.ext import Entered, Gate, ToolDefinition, tell
from tappass_adapters.adk.plugin import speaking

NAME = "execute_code"
DEFINITION = ToolDefinition(
    name=NAME,
    description="Run code that the model wrote.",
    parameters={"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
    arguments=("code",),
)


def around(original: Any) -> Any:
    """Return what stands before an executor's `execute_code`, which ADK calls on a thread."""

    def execute_code(invocation_context: Any, code_execution_input: Any) -> Any:
        guard = speaking(invocation_context)
        if guard is None:
            return original(invocation_context, code_execution_input)

        def run(code: str) -> Any:
            code_execution_input.code = code
            return original(invocation_context, code_execution_input)

        session = guard.agents.of(invocation_context)
        try:
            with Entered(session):
                return Gate(NAME, DEFINITION).run(run, {"code": code_execution_input.code})
        except TapPassError as error:
            return _told(tell(session, error))

    return execute_code


def _told(text: str) -> Any:
    from google.adk.code_executors.code_execution_utils import CodeExecutionResult

    return CodeExecutionResult(stderr=text)
