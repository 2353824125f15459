"""`TapPass`, `AsyncTapPass`: what an admin key does from code: register agents, look at them, ask after the server."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from tappass.errors import TapPassConfigError, TapPassConnectionError, TapPassError
from tappass.wire.codec import decode, encode
from tappass.wire.service import OLDEST_SERVER, AgentInfo, Credential, Health, Registration
from tappass.wire.version import VERSION

T = TypeVar("T")

_CONNECTS = 2


class _Question(msgspec.Struct, Generic[T], frozen=True):
    """A request, and the shape of its answer."""

    method: str
    path: str
    shape: type[T]
    body: Any = None


class _Address:
    """A server and a key for it: builds requests, reads answers; does no I/O."""

    def __init__(self, url: str, admin_key: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise TapPassConfigError("the url of a server is http://host:port or https://host, without a key in it")
        self.url = url.rstrip("/")
        self._key = admin_key

    def request(self, client: httpx.Client | httpx.AsyncClient, asked: _Question[Any]) -> httpx.Request:
        headers = {"User-Agent": f"tappass/{VERSION}", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        content = None
        if asked.body is not None:
            content, headers["Content-Type"] = encode(asked.body), "application/json"
        return client.build_request(asked.method, self.url + asked.path, headers=headers, content=content)

    def answer(self, asked: _Question[T], response: httpx.Response) -> T:
        if not response.is_success:
            raise self._refused(response)
        try:
            return decode(response.content, asked.shape)
        except msgspec.DecodeError as error:
            raise TapPassConnectionError(f"what answers at {self.url} is no TapPass server; check the url") from error

    def unreachable(self, error: httpx.HTTPError) -> TapPassConnectionError:
        what = type(error).__name__
        return TapPassConnectionError(
            f"the server at {self.url} did not answer ({what}); see that `tappass serve` runs"
        )

    def _refused(self, response: httpx.Response) -> TapPassError:
        status, told = response.status_code, _told(response.content)
        if response.is_redirect:
            return TapPassConfigError(f"{self.url} answers with a redirect, which is not followed; use its own address")
        if status in (401, 403):
            return TapPassConfigError(f"the server at {self.url} refuses the admin key: {told or status}")
        if status >= 500 or status == 429:
            return TapPassConnectionError(f"the server at {self.url} cannot answer now: {told or status}")
        return TapPassConfigError(f"the server at {self.url} refuses the request: {told or status}")


def _told(content: bytes) -> str:
    try:
        found = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return ""
    detail = found.get("detail") if isinstance(found, dict) else None
    return detail[:500] if isinstance(detail, str) else ""


def _checked(health: Health, url: str) -> Health:
    try:
        version = tuple(int(part) for part in health.version.split("."))
    except ValueError:
        version = ()
    if version < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise TapPassConfigError(f"the server at {url} is {health.version}, this client needs {oldest} or newer")
    return health


_HEALTH = _Question("GET", "/health", Health)


def _agent(agent_uuid: str) -> _Question[AgentInfo]:
    return _Question("GET", f"/agents/{quote(agent_uuid, safe='')}", AgentInfo)


def _registration(name: str, framework: str, description: str) -> _Question[Credential]:
    told = Registration(agent_id=name, framework=framework, description=description)
    return _Question("POST", "/agents/register", Credential, told)


class TapPass:
    """A client for administration, over one pooled connection; close it, or use it with `with`.

    Args:
        url: the server's address.
        admin_key: `tp_admin_…`; sent to that address only, never after a redirect.
        timeout_s: how long to wait for an answer, in seconds.
        transport: what carries the requests, for tests.

    Raises:
        TapPassConfigError: the url is none.
    """

    def __init__(
        self, url: str, *, admin_key: str = "", timeout_s: float = 10.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._address = _Address(url, admin_key)
        # A connection that cannot be had is tried again; a request that was sent never is.
        carrier = transport or httpx.HTTPTransport(retries=_CONNECTS)
        self._client = httpx.Client(timeout=timeout_s, transport=carrier, follow_redirects=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address.url!r})"

    def health(self) -> Health:
        """Return the server's version and state.

        Raises:
            TapPassConnectionError: it does not answer.
            TapPassConfigError: it is too old for this client.
        """
        return _checked(self._ask(_HEALTH), self._address.url)

    def agent(self, agent_uuid: str) -> AgentInfo:
        """Return a registered agent.

        Raises:
            TapPassConnectionError: the server does not answer.
            TapPassConfigError: there is no such agent, or the key does not do.
        """
        return self._ask(_agent(agent_uuid))

    def register_agent(self, name: str, *, framework: str = "", description: str = "") -> Credential:
        """Register an agent; its key is in the answer, and kept nowhere else.

        Raises:
            TapPassConnectionError: the server does not answer.
            TapPassConfigError: the name is taken or not usable, or the key does not do.
        """
        return self._ask(_registration(name, framework, description))

    def close(self) -> None:
        """Let go of the connection; safe to repeat."""
        self._client.close()

    def __enter__(self) -> TapPass:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, asked: _Question[T]) -> T:
        try:
            response = self._client.send(self._address.request(self._client, asked))
        except httpx.HTTPError as error:
            raise self._address.unreachable(error) from error
        return self._address.answer(asked, response)


class AsyncTapPass:
    """`TapPass`, awaited, on asyncio or trio."""

    def __init__(
        self,
        url: str,
        *,
        admin_key: str = "",
        timeout_s: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._address = _Address(url, admin_key)
        carrier = transport or httpx.AsyncHTTPTransport(retries=_CONNECTS)
        self._client = httpx.AsyncClient(timeout=timeout_s, transport=carrier, follow_redirects=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address.url!r})"

    async def health(self) -> Health:
        """Return the server's version and state."""
        return _checked(await self._ask(_HEALTH), self._address.url)

    async def agent(self, agent_uuid: str) -> AgentInfo:
        """Return a registered agent."""
        return await self._ask(_agent(agent_uuid))

    async def register_agent(self, name: str, *, framework: str = "", description: str = "") -> Credential:
        """Register an agent; its key is in the answer, and kept nowhere else."""
        return await self._ask(_registration(name, framework, description))

    async def aclose(self) -> None:
        """Let go of the connection; safe to repeat."""
        await self._client.aclose()

    async def __aenter__(self) -> AsyncTapPass:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _ask(self, asked: _Question[T]) -> T:
        try:
            response = await self._client.send(self._address.request(self._client, asked))
        except httpx.HTTPError as error:
            raise self._address.unreachable(error) from error
        return self._address.answer(asked, response)
