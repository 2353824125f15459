"""Chat completions as a loop reads and writes them."""

from __future__ import annotations

from typing import Any

from tappass.errors import TapPassConfigError
from tappass.ext import ModelCall, ModelStream, ToolDefinition
from tappass_adapters.openai import items
from tappass_adapters.openai.loop import Asked, Refused, definition_of
from tappass_adapters.openai.responses import asked, given_of, tools_of

_PARAMETERS = (
    "frequency_penalty", "max_completion_tokens", "max_tokens", "metadata", "n", "parallel_tool_calls",
    "presence_penalty", "reasoning_effort", "response_format", "seed", "stop", "store", "temperature", "tool_choice",
    "top_p", "user",
)  # fmt: skip


class Chat:
    """The protocol of `client.chat.completions`."""

    @staticmethod
    def asked(request: dict[str, Any]) -> dict[str, Any]:
        """Return a request as a model call has it."""
        for name in ("functions", "function_call", "web_search_options", "audio"):
            if given_of(request, name) is not None:
                raise TapPassConfigError(f"the model was not asked: a governed request has no `{name}`")
        return asked(request, [items.plain(message) for message in request["messages"]], _PARAMETERS)

    @staticmethod
    def sendable(request: dict[str, Any], told: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the request as it may be sent."""
        items.only_messages(arguments, told)
        return request | {"messages": arguments["messages"]}

    @staticmethod
    def definitions(request: dict[str, Any]) -> dict[str, ToolDefinition]:
        """Return what the request says of the functions that it offers, by name."""
        found = (tool["function"] for tool in tools_of(request))
        return {one["name"]: definition_of(one["name"], one.get("description"), one.get("parameters")) for one in found}

    @staticmethod
    def heard(call: ModelCall, answer: Any) -> None:
        """Note which model answered."""
        usage = answer.usage
        call.heard(answer.model, getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))

    @staticmethod
    def texts(answer: Any) -> list[str]:
        """Return the answer's texts."""
        return [text for choice in answer.choices for _, text in _texts(choice.message)]

    @staticmethod
    def with_texts(answer: Any, shown: list[str]) -> Any:
        """Return the answer with these texts."""
        if shown == Chat.texts(answer):
            return answer
        left = iter(shown)
        choices = []
        for choice in answer.choices:
            changed: dict[str, Any] = {name: next(left) for name, _ in _texts(choice.message)}
            if getattr(choice.message, "annotations", None):
                changed["annotations"] = []
            if (parsed := getattr(choice.message, "parsed", None)) is not None:
                changed["parsed"] = items.parsed_again(parsed, changed["content"])
            message = choice.message.model_copy(update=changed)
            choices.append(choice.model_copy(update={"message": message, "logprobs": None}))
        return answer.model_copy(update={"choices": choices})

    @staticmethod
    def calls(answer: Any) -> list[Asked]:
        """Return the function calls that the model asks for."""
        found = []
        for choice in answer.choices:
            if getattr(choice.message, "function_call", None) is not None:
                raise TapPassConfigError("the answer holds a `function_call`, which nobody has decided")
            for item in choice.message.tool_calls or ():
                found.append(call_of(item))
        return found

    @staticmethod
    def with_calls(answer: Any, wanted: list[Asked]) -> Any:
        """Return the answer with the calls that may be made, and nothing of the others."""
        if not wanted:
            return answer
        by_id = {call.call_id: call for call in wanted}
        choices = []
        for choice in answer.choices:
            calls = choice.message.tool_calls or []
            kept = [_given(item, by_id[item.id]) for item in calls if not by_id[item.id].told]
            message = choice.message.model_copy(update={"tool_calls": kept or None})
            choices.append(choice.model_copy(update={"message": message}))
        return answer.model_copy(update={"choices": choices})

    @staticmethod
    def id_of(answer: Any) -> str:
        """Return the answer's id."""
        return str(answer.id)

    @staticmethod
    def outputs(request: dict[str, Any]) -> list[tuple[str, Any]]:
        """Return the outputs that a request hands in, by call id."""
        return [
            (one["tool_call_id"], one["content"]) for one in map(items.plain, request["messages"]) if _is_output(one)
        ]

    @staticmethod
    def with_outputs(request: dict[str, Any], shown: list[Any]) -> dict[str, Any]:
        """Return the request with what may be read of its outputs."""
        left, messages = iter(shown), [items.plain(message) for message in request["messages"]]
        return request | {"messages": [one | {"content": next(left)} if _is_output(one) else one for one in messages]}

    @staticmethod
    def goes_on_from(request: dict[str, Any], refused: Refused) -> bool:
        """Tell whether a request goes on from an answer of which calls were refused."""
        return any(_asks(one, refused) for one in request["messages"])

    @staticmethod
    def keeps(request: dict[str, Any]) -> bool:
        """Tell whether the server keeps what it is told: never."""
        return False

    @staticmethod
    def with_told(request: dict[str, Any], refused: Refused) -> dict[str, Any]:
        """Return the request with refused calls and what the model is told of them, beside the others."""
        messages: list[Any] = []
        for one in request["messages"]:
            if not _asks(one, refused):
                messages.append(one)
                continue
            own = [items.plain(call.item) for call in refused.calls]
            messages.append(one | {"tool_calls": [*own, *one["tool_calls"]]})
            messages += [_output(call) for call in refused.calls]
        return request | {"messages": messages}

    @staticmethod
    def going_on(request: dict[str, Any], answer: Any, wanted: list[Asked]) -> dict[str, Any]:
        """Return the request that tells the model of its refused calls, where the caller has nothing to do."""
        message = items.plain(answer.choices[0].message)
        told = [_output(call) for call in wanted]
        message = {name: message.get(name) for name in ("role", "content")} | {
            "tool_calls": [items.plain(call.item) for call in wanted]
        }
        return request | {"messages": [*request["messages"], message, *told]}

    @staticmethod
    def reading(call: ModelStream, before: Any) -> Any:
        """Return what reads a streamed answer."""
        from tappass_adapters.openai.chunks import ChatChunks

        return ChatChunks(call)


def call_of(item: Any) -> Asked:
    """Return a tool call as a loop has it.

    Raises:
        TapPassConfigError: it is of no function.
    """
    if item.type != "function":
        raise TapPassConfigError(f"the answer holds a call of type `{item.type}`, which nobody has decided")
    return Asked(item.id, item.function.name, item.function.arguments, item)


def _given(item: Any, call: Asked) -> Any:
    changed: dict[str, Any] = {"arguments": call.given}
    if (parsed := getattr(item.function, "parsed_arguments", None)) is not None:
        changed["parsed_arguments"] = items.parsed_again(parsed, call.given)
    return item.model_copy(update={"function": item.function.model_copy(update=changed)})


# The last two are what servers call it that show how their model reasoned.
TEXTS = ("content", "refusal", "reasoning_content", "reasoning")


def _texts(message: Any) -> list[tuple[str, str]]:
    return [(name, text) for name in TEXTS if isinstance(text := getattr(message, name, None), str)]


def _is_output(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "tool"


def _asks(message: Any, refused: Refused) -> bool:
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    return any(call.get("id") in refused.beside for call in calls or ())


def _output(call: Asked) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call.call_id, "content": call.told}
