"""Asking an upstream: which one a model goes to, and one OpenAI-compatible request to it, whole or streamed."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from tappass import forking
from tappass.engine import http_clients, upstream_errors
from tappass.engine.openai_shapes import Chunk, Completion, request_body
from tappass.engine.policy import globs
from tappass.engine.upstream_reading import BodyReader, ChunkReader
from tappass.errors import TapPassConfigError
from tappass.wire.chat import ChatRequest

LOCAL = "local:"
"""The `base_url` of an upstream that stands for the local model."""

CONNECT_TIMEOUT_S = 10.0


class UpstreamSettings(Protocol):
    """One `[[upstream]]` of the settings: which models go where, with the key from which variable."""

    @property
    def match(self) -> str:
        """A glob over model names: `gpt-*`."""
        ...

    @property
    def base_url(self) -> str:
        """Where `/chat/completions` is appended."""
        ...

    @property
    def key_env(self) -> str:
        """The environment variable that holds the key, "" for none."""
        ...

    @property
    def timeout_s(self) -> float:
        """How long the upstream may be silent."""
        ...


class LocalServer(Protocol):
    """The model that answers on this machine; see `local_model.LocalModel`."""

    @property
    def name(self) -> str:
        """What a response calls it."""
        ...

    def endpoint(self, asked_for: str) -> Endpoint:
        """Return where it listens, starting it if need be."""
        ...


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where one request goes. `name` is the host, fit for a message; `key` never is."""

    base_url: str
    name: str
    key: str = ""
    key_env: str = ""
    timeout_s: float = 120.0
    keep_alive: bool = True

    def __repr__(self) -> str:
        return f"Endpoint({self.name})"


class Upstreams:
    """The models' servers, in the order of the settings: the first whose glob matches a model is asked.

    Without any upstream in the settings, `local` answers whatever the model's name.
    """

    def __init__(self, upstreams: Sequence[UpstreamSettings] = (), local: LocalServer | None = None) -> None:
        self._upstreams = tuple(upstreams)
        self._local = local
        self._no_usage: set[str] = set()

    def complete(self, request: ChatRequest) -> Completion:
        """Ask for a whole answer.

        Raises:
            TapPassConfigError: no upstream serves the model, or its key is not set.
            TapPassConnectionError: the upstream did not answer as it should.
        """
        with forking.unforked:
            import httpx

        endpoint = self.endpoint(request.model)
        reader = BodyReader(endpoint, request.model)
        try:
            with http_clients.client().stream(**_post(endpoint, request_body(request, stream=False))) as response:
                for piece in response.iter_bytes():
                    reader.feed(piece)
        except httpx.HTTPError as error:
            raise upstream_errors.unreachable(endpoint.name, error, endpoint.timeout_s) from None
        return reader.completion(response.status_code)

    async def acomplete(self, request: ChatRequest) -> Completion:
        """Ask for a whole answer; raises as `complete` does."""
        with forking.unforked:
            import httpx

        endpoint = await self._aendpoint(request.model)
        reader = BodyReader(endpoint, request.model)
        client = await http_clients.aclient()
        try:
            post = _post(endpoint, request_body(request, stream=False))
            async with client.stream(**post) as response, http_clients.pieces(response) as pieces:
                async for piece in pieces:
                    reader.feed(piece)
        except httpx.HTTPError as error:
            raise upstream_errors.unreachable(endpoint.name, error, endpoint.timeout_s) from None
        return reader.completion(response.status_code)

    def stream(self, request: ChatRequest) -> Generator[Chunk, None, None]:
        """Ask for an answer in pieces; closing the generator ends the request. Raises as `complete` does."""
        with forking.unforked:
            import httpx

        endpoint = self.endpoint(request.model)
        for ask_usage in self._attempts(endpoint):
            reader = ChunkReader(endpoint, may_ask_again=ask_usage)
            post = _post(endpoint, request_body(request, stream=True, ask_usage=ask_usage))
            try:
                with http_clients.client().stream(**post) as response:
                    reader.begin(response.status_code, response.headers.get("content-type", ""))
                    for piece in response.iter_bytes():
                        yield from reader.feed(piece)
                        if reader.enough:
                            break
            except httpx.HTTPError as error:
                if not reader.done:
                    raise upstream_errors.unreachable(endpoint.name, error, endpoint.timeout_s) from None
            yield from reader.finish()
            if not reader.refused:
                self._remember(endpoint, ask_usage)
                break

    async def astream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Ask for an answer in pieces; closing the generator ends the request. Raises as `complete` does."""
        with forking.unforked:
            import httpx

        endpoint = await self._aendpoint(request.model)
        client = await http_clients.aclient()
        for ask_usage in self._attempts(endpoint):
            reader = ChunkReader(endpoint, may_ask_again=ask_usage)
            post = _post(endpoint, request_body(request, stream=True, ask_usage=ask_usage))
            try:
                async with client.stream(**post) as response:
                    reader.begin(response.status_code, response.headers.get("content-type", ""))
                    async with http_clients.pieces(response) as pieces:
                        async for piece in pieces:
                            for chunk in reader.feed(piece):
                                yield chunk
                            if reader.enough:
                                break
            except httpx.HTTPError as error:
                if not reader.done:
                    raise upstream_errors.unreachable(endpoint.name, error, endpoint.timeout_s) from None
            for chunk in reader.finish():
                yield chunk
            if not reader.refused:
                self._remember(endpoint, ask_usage)
                break

    def endpoint(self, model: str) -> Endpoint:
        """Return where requests for a model go, its key read from the environment now.

        Raises:
            TapPassConfigError: no upstream serves it, its key is not set, or the local model is not installed.
        """
        for upstream in self._upstreams:
            if globs.matches(upstream.match, model):
                return self._local_endpoint(model) if upstream.base_url == LOCAL else _remote(upstream)
        if self._upstreams and not (self._local is not None and model == self._local.name):
            known = ", ".join(f"`{upstream.match}`" for upstream in self._upstreams)
            raise TapPassConfigError(
                f"no [[upstream]] in the settings serves the model `{model}` (they match {known}); "
                f'add one, or one with match = "*" and base_url = "{LOCAL}" for the local stand-in'
            )
        return self._local_endpoint(model)

    async def _aendpoint(self, model: str) -> Endpoint:
        import anyio.to_thread

        # Starting the local model takes a second, and other tasks should not wait for it.
        return await anyio.to_thread.run_sync(self.endpoint, model)

    def _local_endpoint(self, model: str) -> Endpoint:
        if self._local is None:
            raise TapPassConfigError(
                f"no [[upstream]] in the settings serves the model `{model}`; add one with `match` and `base_url`"
            )
        return self._local.endpoint(model)

    def _attempts(self, endpoint: Endpoint) -> tuple[bool, ...]:
        """Return whether to ask for usage, attempt by attempt: some servers refuse `stream_options`."""
        return (False,) if endpoint.base_url in self._no_usage else (True, False)

    def _remember(self, endpoint: Endpoint, ask_usage: bool) -> None:
        if not ask_usage:
            self._no_usage.add(endpoint.base_url)


def _remote(upstream: UpstreamSettings) -> Endpoint:
    parts = urlsplit(upstream.base_url)
    name = parts.netloc.rpartition("@")[2]
    if parts.scheme not in ("http", "https") or not name:
        raise TapPassConfigError(f"the `base_url` of [[upstream]] `{upstream.match}` is no http or https address")
    return Endpoint(
        base_url=upstream.base_url.rstrip("/"),
        name=name,
        key=_key(upstream.key_env, name) if upstream.key_env else "",
        key_env=upstream.key_env,
        timeout_s=upstream.timeout_s,
    )


def _key(variable: str, name: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TapPassConfigError(
            f"the environment variable {variable}, which holds the key for upstream {name}, is not set; set it"
        )
    # Checked here, because the HTTP library quotes a header that it cannot send.
    if not (key.isascii() and key.isprintable()):
        raise TapPassConfigError(
            f"the environment variable {variable}, which holds the key for upstream {name}, has characters that no "
            "HTTP header can hold; set it again"
        )
    return key


def _post(endpoint: Endpoint, body: bytes) -> dict[str, Any]:
    with forking.unforked:
        import httpx

    headers = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "tappass"}
    if endpoint.key:
        headers["authorization"] = f"Bearer {endpoint.key}"
    if not endpoint.keep_alive:
        headers["connection"] = "close"
    return {
        "method": "POST",
        "url": f"{endpoint.base_url}/chat/completions",
        "headers": headers,
        "content": body,
        "timeout": httpx.Timeout(endpoint.timeout_s, connect=min(CONNECT_TIMEOUT_S, endpoint.timeout_s)),
    }
