"""Model calls: decided and recorded around the method of the model that ADK calls last."""

from __future__ import annotations

import types
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from google.adk.models.llm_response import LlmResponse
from google.genai.types import Content, Part

from tappass.errors import TapPassError
from tappass.ext import ModelCall, Session, current_guard, tell
from tappass_adapters.adk import code, messages
from tappass_adapters.adk.plugin import speaking
from tappass_adapters.adk.summaries import summing

if TYPE_CHECKING:
    from tappass_adapters.adk.guard import AdkGuard

# How a model that tries others, a `FallbackModel`, gets the next of them.
CHOOSES = "_delegate"

# By request: an agent may ask its model on a bare thread, where no guard is the current one.
_expected: dict[int, tuple[Any, AdkGuard, Session]] = {}


class Models:
    """The model calls of one guard."""

    def __init__(self, guard: AdkGuard) -> None:
        self._guard = guard
        self._known: dict[int, Any] = {}
        self._asking: set[int] = set()
        self._choosing: set[int] = set()

    def expect(self, context: Any, request: Any) -> None:
        """Stand before the model of the agent that asks until the unit ends."""
        agent = context._invocation_context.agent
        _expected[id(request)] = request, self._guard, self._guard.agents.session(context)
        model = agent.canonical_model
        # Older versions make a model anew each time it is asked for.
        self.stand(model if agent.canonical_model is model else type(model))

    def meet(self, agent: Any) -> None:
        """Stand before what runs an agent's code until the unit ends: some of it runs before its model is asked."""
        executor = getattr(agent, "code_executor", None)
        if executor is not None and id(executor) not in self._known:
            self._known[id(executor)] = executor
            self._guard.arm(executor, "execute_code", code.around)

    def stand(self, owner: Any) -> None:
        """Stand before a model, or a class of models, until the unit ends; before those that it asks for it, too."""
        if id(owner) not in self._known:
            self._known[id(owner)] = owner
            self._guard.arm(owner, "generate_content_async", _around)
            if hasattr(owner, CHOOSES):
                self._guard.arm(owner, CHOOSES, choosing)

    def forget(self) -> None:
        """Forget requests that were never sent."""
        for key in [key for key, (_, guard, _session) in [*_expected.items()] if guard is self._guard]:
            _expected.pop(key, None)

    async def ask(self, model: Any, original: Any, request: Any, stream: bool) -> AsyncIterator[LlmResponse]:
        """Make one model call: decided, redacted, recorded.

        Raises:
            TapPassError: it was refused, and this guard raises.
        """
        if id(request) in self._asking:
            # A subclass calls its base's: the same call.
            async for response in original(request, stream):
                yield response
            return
        if hasattr(model, CHOOSES):
            # Each model that it tries is a call of its own, by that model's name.
            self._choosing.add(id(request))
            try:
                async for response in original(request, stream):
                    yield response
            finally:
                self._choosing.discard(id(request))
                _expected.pop(id(request), None)
            return
        take = _expected.get if id(request) in self._choosing else _expected.pop
        *_, session = take(id(request), (self._guard.session,))
        told = messages.shown(request)
        call = messages.call(model, request, told, session)
        try:
            request = messages.sent(request, told, await call.abefore())
        except TapPassError as error:
            if summing.get():
                raise
            yield LlmResponse(content=Content(role="model", parts=[Part(text=tell(session, error))]))
            return
        self._asking.add(id(request))
        try:
            async for response in _heard(call, original(request, stream)):
                yield response
        finally:
            self._asking.discard(id(request))


async def _heard(call: ModelCall, source: AsyncIterator[LlmResponse]) -> AsyncIterator[LlmResponse]:
    """Hand on what a model says, held back to its end where policy inspects it; settle the call."""
    held: list[LlmResponse] = []
    try:
        async for response in source:
            _count(call, response)
            if call.inspected:
                held.append(response)
            else:
                yield response
    except BaseException as error:
        await call.aafter(error=error)
        raise
    finally:
        if (aclose := getattr(source, "aclose", None)) is not None:
            await aclose()
    whole = [response for response in held if not response.partial] or held
    said = [part for response in whole for part in _parts(response) if part.text]
    # Joined: what is to be found may lie across two parts.
    kinds = [[part for part in said if bool(part.thought) is thought] for thought in (False, True)]
    texts = ["".join(part.text for part in parts) for parts in kinds if parts]
    clean = await call.aafter(texts)
    if clean != texts:
        # What came in pieces came unredacted.
        held = whole
        for parts, text in zip([parts for parts in kinds if parts], clean, strict=True):
            parts[0].text = text
            for part in parts[1:]:
                part.text = ""
    for response in held:
        yield response


def _count(call: ModelCall, response: LlmResponse) -> None:
    usage = response.usage_metadata
    model = getattr(response, "model_version", None) or ""
    if usage is not None:
        thought = getattr(usage, "thoughts_token_count", None) or 0
        call.heard(model, usage.prompt_token_count, (usage.candidates_token_count or 0) + thought)
    elif model:
        call.heard(model)


def _parts(response: LlmResponse) -> list[Any]:
    return list(response.content.parts or []) if response.content is not None else []


def _around(original: Any) -> Any:
    """Return what stands before a model's method: bound to its object, or a function of its class."""
    bound = isinstance(original, types.MethodType)

    async def generate_content_async(*given: Any, **more: Any) -> AsyncIterator[LlmResponse]:
        model, rest = (original.__self__, given) if bound else (given[0], given[1:])
        method = original if bound else types.MethodType(original, model)
        request, stream = _read(*rest, **more)
        guard = speaking() or _expecting(request)
        source: Any = method(request, stream) if guard is None else guard.models.ask(model, method, request, stream)
        try:
            async for response in source:
                yield response
        finally:
            await source.aclose()

    return generate_content_async


def choosing(original: Any) -> Any:
    """Return what gets the next of several models: one that we stand before."""

    def _delegate(*given: Any) -> Any:
        model = original(*given)
        guard = speaking()
        # On a bare thread it may be for any that wait for an answer.
        for found in [guard] if guard is not None else {id(g): g for _, g, _session in [*_expected.values()]}.values():
            found.models.stand(model)
            found.live.stand(model)
        return model

    return _delegate


def _expecting(request: Any) -> AdkGuard | None:
    found = _expected.get(id(request))
    return found[1] if found is not None and current_guard() is None else None


def _read(llm_request: Any, stream: bool = False) -> tuple[Any, bool]:
    return llm_request, stream
