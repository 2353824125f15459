"""The Responses API as a loop reads and writes it."""

from __future__ import annotations

from typing import Any

from tappass.errors import TapPassConfigError
from tappass.ext import ModelCall, ModelStream, ToolDefinition
from tappass_adapters.openai import items
from tappass_adapters.openai.loop import Asked, Refused, definition_of

_PARAMETERS = (
    "conversation", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls", "previous_response_id",
    "prompt", "reasoning", "store", "temperature", "text", "tool_choice", "top_p", "truncation", "user", "extra_body",
)  # fmt: skip
_KNOWN = frozenset({"message", "reasoning", "function_call", "compaction"})


def given_of(request: dict[str, Any], name: str) -> Any:
    """Return an argument that the caller gave, None for one that the client leaves out."""
    value = request.get(name)
    return None if type(value).__name__ in ("Omit", "NotGiven") else value


def tools_of(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the functions that a request offers.

    Raises:
        TapPassConfigError: it offers something that runs where nobody can decide it.
    """
    offered = items.plain(given_of(request, "tools") or [])
    for tool in offered:
        if tool.get("type") != "function":
            raise TapPassConfigError(
                f"the model was not asked: it would be offered `{tool.get('type')}`, whose calls nobody can decide "
                "before they run; offer functions only"
            )
    return list(offered)


def asked(request: dict[str, Any], messages: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Return a request as a model call has it."""
    for name in ("background", "extra_body", "extra_query"):
        if given_of(request, name):
            raise TapPassConfigError(f"the model was not asked: a governed request has no `{name}`")
    offered = []
    for tool in tools_of(request):
        one = tool.get("function", tool)
        offered.append(items.offered(one["name"], one.get("description"), one.get("parameters")))
    parameters = {name: items.plain(value) for name in names if (value := given_of(request, name)) is not None}
    return {
        "model": str(given_of(request, "model") or ""),
        "messages": messages,
        "tools": offered,
        "parameters": {name: value for name, value in parameters.items() if _is_json(value)},
    }


def _is_json(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | dict | list)


class Responses:
    """The protocol of `client.responses`."""

    @staticmethod
    def asked(request: dict[str, Any]) -> dict[str, Any]:
        """Return a request as a model call has it."""
        return asked(
            request, items.messages(given_of(request, "instructions"), given_of(request, "input")), _PARAMETERS
        )

    @staticmethod
    def sendable(request: dict[str, Any], told: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the request as it may be sent."""
        given = given_of(request, "input")
        system, sent = items.sent(arguments, told, given if isinstance(given, str) else list(given or ()))
        changed = dict(request)
        if given is not None:
            changed["input"] = sent
        if given_of(request, "instructions") is not None:
            changed["instructions"] = system
        return changed

    @staticmethod
    def definitions(request: dict[str, Any]) -> dict[str, ToolDefinition]:
        """Return what the request says of the functions that it offers, by name."""
        return {
            tool["name"]: definition_of(tool["name"], tool.get("description"), tool.get("parameters"))
            for tool in tools_of(request)
        }

    @staticmethod
    def heard(call: ModelCall, answer: Any) -> None:
        """Note which model answered."""
        items.heard(call, answer)

    @staticmethod
    def texts(answer: Any) -> list[str]:
        """Return the answer's texts."""
        return items.texts(answer.output)

    @staticmethod
    def with_texts(answer: Any, shown: list[str]) -> Any:
        """Return the answer with these texts."""
        return _with_output(answer, items.with_texts(answer.output, shown))

    @staticmethod
    def calls(answer: Any) -> list[Asked]:
        """Return the function calls that the model asks for.

        Raises:
            TapPassConfigError: it holds a call that was made elsewhere.
        """
        for item in answer.output:
            if item.type not in _KNOWN:
                raise TapPassConfigError(f"the answer holds `{item.type}`, which nobody has decided")
        return [_call(item) for item in answer.output if item.type == "function_call"]

    @staticmethod
    def with_calls(answer: Any, wanted: list[Asked]) -> Any:
        """Return the answer with the calls that may be made, and nothing of the others."""
        return _with_output(answer, with_calls(answer.output, wanted))

    @staticmethod
    def id_of(answer: Any) -> str:
        """Return what the next request goes on from."""
        return str(answer.id)

    @staticmethod
    def outputs(request: dict[str, Any]) -> list[tuple[str, Any]]:
        """Return the outputs that a request hands in, by call id."""
        given = given_of(request, "input")
        found = [items.plain(item) for item in given] if given is not None and not isinstance(given, str) else []
        return [(item["call_id"], item["output"]) for item in found if _is_output(item)]

    @staticmethod
    def with_outputs(request: dict[str, Any], shown: list[Any]) -> dict[str, Any]:
        """Return the request with what may be read of its outputs."""
        if shown == [output for _, output in Responses.outputs(request)]:
            return request
        left, given = iter(shown), [items.plain(item) for item in request["input"]]
        return request | {"input": [item | {"output": next(left)} if _is_output(item) else item for item in given]}

    @staticmethod
    def goes_on_from(request: dict[str, Any], refused: Refused) -> bool:
        """Tell whether a request goes on from an answer of which calls were refused."""
        handed_in = {call_id for call_id, _ in Responses.outputs(request)}
        return bool(handed_in & refused.beside)

    @staticmethod
    def keeps(request: dict[str, Any]) -> bool:
        """Tell whether the server keeps what it is told: otherwise it is told again with each request."""
        return given_of(request, "previous_response_id") is not None or given_of(request, "conversation") is not None

    @staticmethod
    def with_told(request: dict[str, Any], refused: Refused) -> dict[str, Any]:
        """Return the request with what the model is told of refused calls, beside the outputs of the others."""
        own = [] if Responses.keeps(request) else [items.plain(call.item) for call in refused.calls]
        told = [_output(call) for call in refused.calls]
        given = [items.plain(item) for item in request["input"]]
        at = next(n for n, item in enumerate(given) if _is_output(item) and item["call_id"] in refused.beside)
        return request | {"input": [*given[:at], *own, *told, *given[at:]]}

    @staticmethod
    def going_on(request: dict[str, Any], answer: Any, wanted: list[Asked]) -> dict[str, Any]:
        """Return the request that tells the model of its refused calls, where the caller has nothing to do."""
        told = [_output(call) for call in wanted]
        if given_of(request, "conversation") is not None:
            return request | {"input": told}
        before = items.messages(None, given_of(request, "input"))
        own = [items.plain(item) for item in answer.output] + [items.plain(call.item) for call in wanted]
        return request | {"input": [*before, *own, *told]}

    @staticmethod
    def reading(call: ModelStream, before: Any) -> Any:
        """Return what reads a streamed answer, which goes on from the one before where there is one."""
        from tappass_adapters.openai.events import ResponseEvents

        return ResponseEvents(call, before)


def _call(item: Any) -> Asked:
    namespace = getattr(item, "namespace", None)
    name = f"{namespace}.{item.name}" if namespace else item.name
    return Asked(item.call_id, name, item.arguments, item)


def with_calls(output: list[Any], wanted: list[Asked]) -> list[Any]:
    """Return items with the calls that may be made, and nothing of the others."""
    by_id = {call.call_id: call for call in wanted}
    kept = []
    for item in output:
        call = by_id.get(item.call_id) if item.type == "function_call" else None
        if call is None or not call.told:
            kept.append(item if call is None else given(item, call))
    return kept


def given(item: Any, call: Asked) -> Any:
    """Return a call's item with the arguments that it may be made with."""
    changed: dict[str, Any] = {"arguments": call.given}
    if (parsed := getattr(item, "parsed_arguments", None)) is not None:
        changed["parsed_arguments"] = items.parsed_again(parsed, call.given)
    return item.model_copy(update=changed)


def _with_output(answer: Any, output: Any) -> Any:
    return answer if output is answer.output else answer.model_copy(update={"output": output})


def _is_output(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "function_call_output"


def _output(call: Asked) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call.call_id, "output": call.told}
