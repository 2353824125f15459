"""The callback handler of a guard: it stands before every tool and model call that LangChain makes in a run.

LangChain adds it to each run while the guard's context variable holds it, to those of the objects nobody handed to the
guard too. It is sync, inline, and raises: LangChain goes on past an async one that fails.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, ToolMessage, convert_to_openai_messages
from langchain_core.tracers.context import register_configure_hook

from tappass.ext import Interception, ModelCall, current_guard, irreplaceable
from tappass_adapters.langchain_tools import TAG

if TYPE_CHECKING:
    from tappass_adapters.langchain import AgentGuard

handler: ContextVar[BaseCallbackHandler | None] = ContextVar("tappass_langchain", default=None)
register_configure_hook(handler, inheritable=True)


class GuardCallbacks(BaseCallbackHandler):
    """Decides before and settles after, for one guard."""

    raise_error = True
    run_inline = True
    # Not `ignore_agent`, by which LangChain asks about tools.
    ignore_retriever = ignore_retry = ignore_custom_event = True

    def __init__(self, guard: AgentGuard) -> None:
        self._guard = guard
        self._calls: dict[UUID, Interception] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> GuardCallbacks:
        return self

    def _silent(self) -> bool:
        """Tell whether another guard, further in, speaks for what happens here."""
        return current_guard(type(self._guard)) not in (None, self._guard)

    # Tools that were not governed beforehand.

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Decide; what is raised here keeps the tool from running."""
        if self._silent() or TAG in (tags or ()):
            return
        arguments = inputs if isinstance(inputs, dict) else {"input": input_str}
        session = self._guard.session_at(metadata)
        call = Interception(str(serialized.get("name")), arguments, session=session, fixed=True)
        call.before()
        self._calls[run_id] = call

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Settle; a result that may only be seen redacted is replaced in its message, or withheld."""
        self._guard.pauses.ended(run_id)
        if (call := self._calls.pop(run_id, None)) is None:
            return
        message = isinstance(output, ToolMessage)
        content = output.content if message else output
        if (shown := call.after(content)) is content:
            return
        if not message:
            raise irreplaceable(self._guard.session, call.name)
        output.content = shown

    def on_tool_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Settle as failed."""
        self._guard.pauses.rose(run_id, parent_run_id, False)
        self._failed(run_id, error)

    # What tools run in.

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Bring back an interrupt of ours that was swallowed on its way."""
        self._guard.pauses.ended(run_id)

    def on_chain_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Follow an interrupt of ours on its way."""
        node = any(tag.startswith("graph:step:") for tag in tags or ())
        self._guard.pauses.rose(run_id, parent_run_id, node)

    # Models.

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        invocation_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Decide; what is raised here keeps the model from being asked."""
        told = [one for batch in messages for message in batch for one in _told(message)]
        self._asked(run_id, told, metadata or {}, invocation_params or {})

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        invocation_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Decide, for a model that completes text."""
        told = [{"role": "user", "content": prompt} for prompt in prompts]
        self._asked(run_id, told, metadata or {}, invocation_params or {})

    def _asked(self, run_id: UUID, messages: list[Any], metadata: dict[str, Any], parameters: dict[str, Any]) -> None:
        if self._silent():
            return
        name = metadata.get("ls_model_name") or parameters.get("model") or parameters.get("model_name") or "unknown"
        session = self._guard.session_at(metadata)
        call = ModelCall(str(name), messages, tools=parameters.get("tools") or (), session=session, fixed=True)
        call.before()
        self._calls[run_id] = call

    def on_llm_new_token(self, token: str, *, run_id: UUID, **kwargs: Any) -> None:
        """Withhold an answer that is shown as it comes, where it may only be seen once it was inspected."""
        call = self._calls.get(run_id)
        if call is not None and call.must_be_inspected:
            reason = "its answer must be inspected whole, and was to be shown as it comes; invoke the model instead"
            raise irreplaceable(self._guard.session, call.name, reason)

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Settle with what the model said, how many tokens it took, and which model it was."""
        call = self._calls.pop(run_id, None)
        if not isinstance(call, ModelCall):
            return
        answers = [generation for batch in response.generations for generation in batch]
        message = next((one.message for one in answers if hasattr(one, "message")), None)
        usage = getattr(message, "usage_metadata", None) or {}
        call.heard(
            str((getattr(message, "response_metadata", None) or {}).get("model_name") or ""),
            usage.get("input_tokens"),
            usage.get("output_tokens"),
        )
        said = [one.message.content if hasattr(one, "message") else one.text for one in answers]
        shown = call.after(said[0] if len(said) == 1 else said)
        for one, before, now in zip(answers, said, [shown] if len(said) == 1 else shown, strict=True):
            if now == before:
                continue
            if not hasattr(one, "message"):
                raise irreplaceable(self._guard.session, call.name)
            one.message.content = now
            # What was made of the message's content when the answer came.
            one.text = now if isinstance(now, str) else str(one.message.text)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Settle as failed."""
        self._failed(run_id, error)

    def _failed(self, run_id: UUID, error: BaseException) -> None:
        if (call := self._calls.pop(run_id, None)) is not None:
            try:
                call.after(error=error)
            except BaseException as raised:
                if raised is not error:
                    raise


def _told(message: BaseMessage) -> list[dict[str, Any]]:
    """Return a message in OpenAI's shape, with its content as it is where that has none there: video, documents, ..."""
    try:
        return list(convert_to_openai_messages([message]))
    except (ValueError, KeyError, TypeError, Warning):
        plain = message.model_copy(update={"content": str(message.text)})
        content = json.loads(json.dumps(message.content, default=repr))
        return [{**one, "content": content} for one in convert_to_openai_messages([plain])]
