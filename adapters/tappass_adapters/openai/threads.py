"""Threads and their runs, the Assistants API of servers that still have it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tappass.errors import TapPassConfigError
from tappass.ext import ModelCall, ToolDefinition, irreplaceable
from tappass_adapters.openai import items
from tappass_adapters.openai.client import Governed, is_async
from tappass_adapters.openai.loop import Asked, Loop, definition_of
from tappass_adapters.openai.responses import asked as asked_of
from tappass_adapters.openai.responses import given_of
from tappass_adapters.openai.steps import After, Before, Do, Steps, adrive, drive

_RUNNING = ("queued", "in_progress", "cancelling")
_PARAMETERS = ("max_completion_tokens", "max_prompt_tokens", "metadata", "response_format", "temperature", "top_p")


@dataclass
class _Going:
    """A run that goes on: the model call that it is in, the functions it offers, the calls it has asked for."""

    definitions: dict[str, ToolDefinition] = field(default_factory=dict)
    call: ModelCall | None = None
    model: str = ""
    known: dict[str, Asked] = field(default_factory=dict)


class GovernedBeta(Governed):
    """`client.beta`, governed."""

    where = "client.beta."
    plain = frozenset({"assistants"})

    @property
    def threads(self) -> Any:
        """Threads."""
        return GovernedThreads(self.__wrapped__.threads, self._self_loop)


class GovernedThreads(Governed):
    """`client.beta.threads`, governed; what is written into a thread is read when a run begins."""

    where = "client.beta.threads."
    plain = frozenset({"create", "delete", "messages", "retrieve", "update"})

    @property
    def runs(self) -> Any:
        """Runs."""
        return GovernedRuns(self.__wrapped__.runs, self._self_loop)


class GovernedRuns(Governed):
    """`client.beta.threads.runs`, governed: `create`, `retrieve`, `poll`, `submit_tool_outputs` and their pairs."""

    where = "client.beta.threads.runs."
    plain = frozenset({"cancel"})

    def create(self, thread_id: str, **request: Any) -> Any:
        """Begin a run; governed."""
        return self._drive(_create(self, thread_id, request))

    def create_and_poll(self, *, thread_id: str, **request: Any) -> Any:
        """Begin a run and wait until there is something to do; governed."""
        return self._drive(_polled(self, _create(self, thread_id, request), _waiting(request)))

    def retrieve(self, run_id: str, *, thread_id: str, **request: Any) -> Any:
        """Look at a run; governed."""
        return self._drive(_looked_at(self, Do(self.__wrapped__.retrieve, _of(run_id, thread_id, request))))

    def poll(self, run_id: str, thread_id: str, **request: Any) -> Any:
        """Wait until a run has something to do; governed."""
        looking = _looked_at(self, Do(self.__wrapped__.retrieve, _of(run_id, thread_id, _named(request))))
        return self._drive(_polled(self, looking, _waiting(request)))

    def submit_tool_outputs(self, run_id: str, *, thread_id: str, tool_outputs: Any, **request: Any) -> Any:
        """Hand in what calls returned; governed."""
        return self._drive(_submit(self, run_id, thread_id, list(tool_outputs), request))

    def submit_tool_outputs_and_poll(self, *, run_id: str, thread_id: str, tool_outputs: Any, **request: Any) -> Any:
        """Hand in what calls returned, and wait until there is something to do; governed."""
        steps = _submit(self, run_id, thread_id, list(tool_outputs), request)
        return self._drive(_polled(self, steps, _waiting(request)))

    def _drive(self, steps: Steps) -> Any:
        return adrive(steps, None) if is_async(self.__wrapped__) else drive(steps, None)


def _of(run_id: str, thread_id: str, request: dict[str, Any]) -> dict[str, Any]:
    return {"run_id": run_id, "thread_id": thread_id, **request}


def _named(request: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name != "poll_interval_ms"}


def _waiting(request: dict[str, Any]) -> dict[str, Any]:
    return {name: request[name] for name in ("poll_interval_ms", "timeout", "extra_headers") if name in request}


def _unstreamed(request: dict[str, Any]) -> dict[str, Any]:
    if given_of(request, "stream"):
        raise TapPassConfigError("the run was not begun: a governed run is not streamed; poll it")
    return _named(request)


def _create(runs: Any, thread_id: str, request: dict[str, Any]) -> Steps:
    request, inner, beta = _unstreamed(request), runs.__wrapped__, runs.__wrapped__._client.beta
    assistant = yield Do(beta.assistants.retrieve, {"assistant_id": request["assistant_id"]})
    stored = yield from _messages(beta, {"thread_id": thread_id, "order": "asc", "limit": 100})
    told = [{"role": one.role, "content": _text(one)} for one in stored]
    for name in ("additional_instructions", "instructions"):
        if text := given_of(request, name) or (assistant.instructions if name == "instructions" else None):
            told.insert(0, {"role": "system", "content": text})
    told += [items.plain(one) for one in given_of(request, "additional_messages") or ()]
    model = given_of(request, "model") or assistant.model
    tools = given_of(request, "tools") or assistant.tools
    asking = asked_of({**request, "model": model, "tools": tools}, told, _PARAMETERS)
    offered = [tool["function"] for tool in asking["tools"]]
    going = _Going({one["name"]: definition_of(one["name"], one["description"], one["parameters"]) for one in offered})
    going.model = model
    yield from _begin(runs._self_loop, going, asking)
    run = yield from _sent(going, Do(inner.create, {"thread_id": thread_id, **request}))
    runs._self_loop.runs[run.id] = going
    return (yield from _seen(runs, run))


def _begin(loop: Loop, going: _Going, asking: dict[str, Any]) -> Steps:
    """Decide the model call that a run makes next; what lies in a thread can only be read as it lies there."""
    loop.guard.governed += 1
    going.call = ModelCall(**asking, session=loop.session(), fixed=True)
    yield Before(going.call)


def _sent(going: _Going, step: Do) -> Steps:
    try:
        return (yield step)
    except BaseException as error:
        call, going.call = going.call, None
        yield After(call, error=error)  # type: ignore[arg-type]
        raise


def _messages(beta: Any, where: dict[str, Any]) -> Steps:
    page = yield Do(beta.threads.messages.list, where)
    found = list(page.data)
    while page.has_next_page():
        page = yield Do(page.get_next_page, {})
        found += page.data
    return found


def _text(message: Any) -> str:
    return "\n".join(part.text.value for part in message.content if part.type == "text")


def _looked_at(runs: Any, step: Do) -> Steps:
    return (yield from _seen(runs, (yield step)))


def _seen(runs: Any, run: Any) -> Steps:
    """Return a run as the caller may see it: the calls that it asks for are decided."""
    if run.status in _RUNNING:
        return run
    loop = runs._self_loop
    going = loop.runs.setdefault(run.id, _Going())
    if going.call is not None:
        yield from _answered(runs, run, going)
    if run.status != "requires_action":
        return run
    action = run.required_action.submit_tool_outputs
    asked = [Asked(one.id, one.function.name, one.function.arguments, one) for one in action.tool_calls]
    new = [one for one in asked if one.call_id not in going.known]
    going.known |= {one.call_id: one for one in (yield from loop.decided_as(going.definitions, new))}
    asked = [going.known[one.call_id] for one in asked]
    if asked and all(one.told for one in asked):
        return (yield from _submit(runs, run.id, run.thread_id, [], {}))
    kept = [
        one.item.model_copy(update={"function": one.item.function.model_copy(update={"arguments": one.given})})
        for one in asked
        if not one.told
    ]
    changed = run.required_action.model_copy(
        update={"submit_tool_outputs": action.model_copy(update={"tool_calls": kept})}
    )
    return run.model_copy(update={"required_action": changed})


def _answered(runs: Any, run: Any, going: _Going) -> Steps:
    """Settle the model call that a run was in."""
    call, going.call = going.call, None
    assert call is not None
    usage = run.usage
    call.heard(run.model or "", getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
    said = []
    if run.status == "completed":
        beta = runs.__wrapped__._client.beta
        said = yield from _messages(beta, {"thread_id": run.thread_id, "run_id": run.id, "limit": 100})
    texts = [_text(one) for one in said if one.role == "assistant"]
    if (yield After(call, texts)) != texts:
        # It lies in the thread, where anybody reads it.
        raise irreplaceable(runs._self_loop.session(), call.name)


def _submit(runs: Any, run_id: str, thread_id: str, outputs: list[Any], request: dict[str, Any]) -> Steps:
    loop, request = runs._self_loop, _unstreamed(request)
    going = loop.runs.setdefault(run_id, _Going())
    handed = {one["tool_call_id"]: one["output"] for one in map(items.plain, outputs)}
    told = {one.call_id: one.told for one in going.known.values() if one.told}
    settled = yield from loop.settled(handed.items())
    shown = dict(zip(handed, settled, strict=True)) | told
    going.known.clear()
    answers = [{"tool_call_id": call_id, "output": output} for call_id, output in shown.items()]
    messages = [{"role": "tool", "tool_call_id": one["tool_call_id"], "content": one["output"]} for one in answers]
    asking = {"model": going.model, "messages": messages, "tools": [], "parameters": {}}
    yield from _begin(loop, going, asking)
    step = Do(runs.__wrapped__.submit_tool_outputs, _of(run_id, thread_id, {"tool_outputs": answers, **request}))
    return (yield from _seen(runs, (yield from _sent(going, step))))


def _polled(runs: Any, steps: Steps, waiting: dict[str, Any]) -> Steps:
    """Wait until a run is no longer running, whatever it did by itself meanwhile."""
    run = yield from steps
    while run.status in _RUNNING:
        found = yield Do(runs.__wrapped__.poll, {"run_id": run.id, "thread_id": run.thread_id, **waiting})
        run = yield from _seen(runs, found)
    return run
