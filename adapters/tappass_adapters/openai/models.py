"""Models of the Agents SDK: each call decided before it is sent, its answer settled before the run reads it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import wrapt

from tappass.errors import TapPassConfigError
from tappass.ext import ModelCall, ModelStream
from tappass_adapters.openai import items
from tappass_adapters.openai.current import current_run, governed_above


def governed_model(model: Any) -> Any:
    """Return a model whose calls are governed by the run that makes them; a name, or None, as it is."""
    return model if model is None or isinstance(model, str | _Governed) else _Governed(model)


def governed_provider(provider: Any) -> Any:
    """Return a provider whose models are governed."""
    return provider if isinstance(provider, _Provider) else _Provider(provider)


class _Provider(wrapt.ObjectProxy[Any]):
    def get_model(self, model_name: str | None) -> Any:
        return governed_model(self.__wrapped__.get_model(model_name))


class _Governed(wrapt.ObjectProxy[Any]):
    """A model, governed where a governed run calls it, and the model itself anywhere else."""

    async def get_response(
        self,
        system_instructions: Any,
        input: Any,  # noqa: A002
        model_settings: Any,
        tools: Any,
        *rest: Any,
        **more: Any,
    ) -> Any:
        inner, run = self.__wrapped__.get_response, current_run()
        if run is None:
            return await inner(system_instructions, input, model_settings, tools, *rest, **more)
        asked = _asked(self._name(), system_instructions, input, model_settings, tools, more)
        call = ModelCall(**asked, session=run.session)
        arguments = await call.abefore()
        try:
            system, given = items.sent(arguments, asked, input)
            with _above():
                answer = await inner(system, given, model_settings, tools, *rest, **more)
        except BaseException as error:
            await call.aafter(error=error)
            raise
        call.heard(self._name(), answer.usage.input_tokens, answer.usage.output_tokens)
        answer.output = items.with_texts(answer.output, await call.aafter(items.texts(answer.output)))
        await run.foresee(tools, answer.output)
        return answer

    async def stream_response(
        self,
        system_instructions: Any,
        input: Any,  # noqa: A002
        model_settings: Any,
        tools: Any,
        *rest: Any,
        **more: Any,
    ) -> AsyncIterator[Any]:
        inner, run = self.__wrapped__.stream_response, current_run()
        if run is None:
            async for event in inner(system_instructions, input, model_settings, tools, *rest, **more):
                yield event
            return
        asked = _asked(self._name(), system_instructions, input, model_settings, tools, more)
        call = ModelStream(**asked, session=run.session)
        arguments = await call.abefore()
        reading = items.Reading(call)
        try:
            system, given = items.sent(arguments, asked, input)
            events = aiter(inner(system, given, model_settings, tools, *rest, **more))
            while (event := await _next(events)) is not None:
                for shown in reading.take(event):
                    if shown.type in items.LAST:
                        items.heard(call, shown.response, self._name())
                        await run.foresee(tools, shown.response.output)
                    yield shown
        except GeneratorExit:
            raise
        except BaseException as error:
            await call.aafter(error=error)
            raise
        await call.aafter()

    def _name(self) -> str:
        name = getattr(self.__wrapped__, "model", "")
        return name if isinstance(name, str) and name else type(self.__wrapped__).__name__

    def __copy__(self) -> Any:
        raise TapPassConfigError("a governed model is not copied: copy the one that was given to the run")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.__copy__()


@contextlib.contextmanager
def _above() -> Iterator[None]:
    """Let what the model sends through a governed client pass there: it is decided here."""
    before = governed_above.get()
    governed_above.set(True)
    try:
        yield
    finally:
        governed_above.set(before)


async def _next(events: AsyncIterator[Any]) -> Any:
    # Not around the whole loop: whoever reads the stream shares its context.
    with _above():
        return await anext(events, None)


def _asked(name: str, system: Any, given: Any, settings: Any, tools: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {
        one: value
        for one in ("temperature", "top_p", "max_tokens", "tool_choice", "parallel_tool_calls", "store")
        if isinstance(value := getattr(settings, one, None), str | int | float | bool)
    }
    for one in ("previous_response_id", "conversation_id", "prompt"):
        if more.get(one):
            parameters[one] = items.plain(more[one])
    # Chat completions' shape, by which the plane knows a tool again whatever protocol offers it.
    offered = [items.offered(tool.name, tool.description, tool.params_json_schema) for tool in tools]
    return {"model": name, "messages": items.messages(system, given), "tools": offered, "parameters": parameters}
