"""An agent written by hand, for rows whose framework serves agents and runs none: it asks the model, and runs tools."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tappass.errors import GovernanceDecision
from tappass.ext import Interception, ModelCall, ToolDefinition
from tappass.plane.refused import decision_in
from tests.adapters.conformance.row import Job
from tests.adapters.scripted import MODEL


def work(job: Job) -> str:
    """Ask the model until it has said all, and run what it asks for; return what it said last."""
    tools = {function.__name__: function for function in job.tools}
    messages: list[dict[str, Any]] = [{"role": "user", "content": job.prompt}]
    while True:
        said = ask(job, messages)
        messages.append(said)
        if not said.get("tool_calls"):
            return str(said["content"])
        for asked in said["tool_calls"]:
            name, given = asked["function"]["name"], json.loads(asked["function"]["arguments"])
            definition = ToolDefinition(name=name, description=tools[name].__doc__ or "", arguments=tuple(given))
            call = Interception(name, given, definition=definition)
            arguments = call.before()
            try:
                result = tools[name](**arguments)
            except BaseException as error:
                call.after(error=error)
                raise
            messages.append({"role": "tool", "tool_call_id": asked["id"], "content": str(call.after(result))})


def ask(job: Job, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Take one turn of the model, governed."""
    turn = ModelCall(MODEL, messages)
    body = {"model": MODEL, "messages": turn.before()["messages"]}
    try:
        answer = (
            httpx.post(f"{job.model.url}/v1/chat/completions", json=body, trust_env=False).raise_for_status().json()
        )
    except BaseException as error:
        turn.after(error=error)
        raise
    turn.heard(answer["model"], answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"])
    said: dict[str, Any] = turn.after(answer["choices"][0]["message"])
    return said


def decision_of(problem: Any) -> GovernanceDecision:
    """Return the decision that a problem's members tell of, as a caller may rebuild it."""
    found = decision_in(json.dumps(problem).encode())
    assert found is not None, problem
    return found
