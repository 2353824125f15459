"""The admin client: exactly what it promises, over a real server and over answers of any kind."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tappass import AsyncTapPass, TapPass, TapPassConfigError, TapPassConnectionError, TapPassError
from tests.serving import Served, serve

URL = "http://plane.test"
KEY = "tp_admin_0123456789"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    with serve(tmp_path_factory.mktemp("served")) as server:
        yield server


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> TapPass:
    return TapPass(URL, admin_key=KEY, transport=httpx.MockTransport(answer))


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}


def test_its_public_methods_are_exactly_these() -> None:
    assert public(TapPass) == {"agent", "close", "health", "register_agent"}
    assert public(AsyncTapPass) == {"aclose", "agent", "health", "register_agent"}


def test_both_take_and_give_the_same() -> None:
    for name in ("agent", "health", "register_agent"):
        ours, theirs = getattr(TapPass, name), getattr(AsyncTapPass, name)
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert inspect.iscoroutinefunction(theirs)


def test_an_agent_is_registered_and_found(served: Served) -> None:
    with TapPass(served.url, admin_key=served.admin_key) as admin:
        made = admin.register_agent("clerk", framework="crewai", description="pays invoices")
        found = admin.agent(made.agent_uuid)
        counted = admin.health().agents
        with pytest.raises(TapPassConfigError, match="registered already"):
            admin.register_agent("clerk")
        with pytest.raises(TapPassConfigError, match="agent's name"):
            admin.register_agent(" ")
        with pytest.raises(TapPassConfigError, match="no such agent"):
            admin.agent("nobody")
    assert made.api_key.startswith("tp_")
    assert made.api_key not in repr(made)
    assert (found.agent_id, found.framework, found.description) == ("clerk", "crewai", "pays invoices")
    assert (found.active, found.trust_tier, found.org_id) == (True, "standard", "org_local")
    assert found.registered_at == made.registered_at
    assert counted == 1


async def test_it_works_awaited(served: Served, anyio_backend: str) -> None:
    async with AsyncTapPass(served.url, admin_key=served.admin_key) as admin:
        made = await admin.register_agent(f"clerk-{anyio_backend}")
        assert (await admin.agent(made.agent_uuid)).agent_id == f"clerk-{anyio_backend}"
        assert (await admin.health()).status == "ok"


def test_health_needs_no_key_and_the_rest_an_admin_one(served: Served) -> None:
    with TapPass(served.url) as nobody:
        assert nobody.health().version.count(".") == 2
        with pytest.raises(TapPassConfigError, match="a key is needed"):
            nobody.register_agent("x")
    with TapPass(served.url, admin_key=served.admin_key) as admin:
        key = admin.register_agent("not-an-admin").api_key
    with TapPass(served.url, admin_key=key) as agent, pytest.raises(TapPassConfigError, match="scope"):
        agent.register_agent("y")


def test_a_redirect_is_not_followed_and_takes_no_key_along() -> None:
    seen = []

    def redirect(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(307, headers={"Location": "http://elsewhere.test/agents/1"})

    with answering(redirect) as admin, pytest.raises(TapPassConfigError, match="redirect"):
        admin.agent("1")
    assert seen == [f"{URL}/agents/1"]


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_what_passes_is_a_connection_error(status: int) -> None:
    with answering(lambda _: httpx.Response(status, text="<html>")) as admin, pytest.raises(TapPassConnectionError):
        admin.health()


def test_a_server_that_is_not_there_is_named() -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with answering(fail) as admin, pytest.raises(TapPassConnectionError, match="tappass serve") as caught:
        admin.register_agent("x")
    assert KEY not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"status": 1}', b"\xff"])
def test_what_is_no_server_of_ours_is_said_to_be_none(body: bytes) -> None:
    with (
        answering(lambda _: httpx.Response(200, content=body)) as admin,
        pytest.raises(TapPassConnectionError, match="no TapPass"),
    ):
        admin.health()


@pytest.mark.parametrize("version", ["0.5.9", "0", "rc", ""])
def test_an_older_server_is_refused(version: str) -> None:
    told = {"status": "ok", "version": version, "storage": "sqlite", "agents": 0, "uptime_seconds": 1}
    with answering(lambda _: httpx.Response(200, json=told)) as admin, pytest.raises(TapPassConfigError, match="needs"):
        admin.health()


@pytest.mark.parametrize("url", ["", "plane.test", "ftp://plane.test", "http://", f"http://{KEY}@plane.test"])
def test_an_address_is_http_and_holds_no_key(url: str) -> None:
    with pytest.raises(TapPassError) as caught:
        TapPass(url, admin_key=KEY)
    assert KEY not in str(caught.value)


def test_the_key_is_in_no_representation() -> None:
    assert KEY not in repr(TapPass(URL, admin_key=KEY)) + repr(AsyncTapPass(URL, admin_key=KEY))


def test_importing_tappass_loads_no_client(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys, tappass; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
