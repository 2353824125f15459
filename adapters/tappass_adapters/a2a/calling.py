"""The caller's side: what a client sends brings a token of the session that is active."""

from __future__ import annotations

from typing import Any

from a2a.client import ClientCallContext, ClientCallInterceptor
from a2a.client.service_parameters import with_a2a_extensions

from tappass import with_correlation_async
from tappass.ext import EXTENSION
from tappass_adapters.a2a.declaring import declares


class CorrelationInterceptor(ClientCallInterceptor):
    """Have a client's calls bring a token: `create_client(url, interceptors=[CorrelationInterceptor()])`.

    It goes in a header, and of messages in the request's metadata too, since a header may get lost on the way. Neither
    the request nor the context that was given is changed.

    Args:
        audience: the agent, as it calls itself; by default as its card does.
        always: also send it to agents whose card does not declare the extension.
    """

    def __init__(self, audience: str = "", *, always: bool = False) -> None:
        self._audience = audience
        self._always = always

    async def before(self, args: Any) -> None:
        """Stamp one call.

        Raises:
            TapPassConfigError: the session is closed.
            TapPassConnectionError: the plane cannot be reached.
        """
        if not self._always and not declares(args.agent_card):
            return
        audience = self._audience or args.agent_card.name
        context = args.context or ClientCallContext()
        sent = await with_correlation_async(context.service_parameters, audience=audience)
        with_a2a_extensions([EXTENSION])(sent)
        args.context = context.model_copy(update={"service_parameters": sent})
        if hasattr(args.input, "message") and hasattr(args.input, "metadata"):
            args.input = await with_correlation_async(args.input, audience=audience)

    async def after(self, args: Any) -> None:
        """Nothing is left to do."""
