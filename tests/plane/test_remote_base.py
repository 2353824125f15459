"""The remote plane needs the base install and nothing else; the `speed` extra is used where it is installed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import warnings

import anyio
import pytest

from tappass import tappass_session_async, tool
from tappass.plane.connect import connect
from tests.living import living
from tests.serving import python_path

POLICY = """
version: 1
rules:
  - {id: mask, tool: '*mail*', effect: redact, fields: [result], kinds: [EMAIL]}
"""
AGENT = """
import json, sys

class Base:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root in BEYOND:
            raise ModuleNotFoundError(f"no {root} in a base install", name=root)

BEYOND = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Base())

import anyio
from tappass import PolicyBlockError, tappass_session, tappass_session_async, tool

@tool
def mail() -> str:
    return "to ann@acme.com"

@tool
def mail_stream():
    yield "to ann@"
    yield "acme.com"

@tool
async def amail() -> str:
    return "to ann@acme.com"

async def main():
    async with tappass_session_async():
        return await amail()

said = {}
with tappass_session():
    said["sync"] = mail()
    try:
        list(mail_stream())
    except PolicyBlockError as error:
        said["stream"] = str(error)
        said["blocked_by"] = error.blocked_by
for backend in ("asyncio", "trio"):
    said[backend] = anyio.run(main, backend=backend)
said["loaded"] = sorted({name.partition(".")[0] for name in sys.modules} & BEYOND)
print(json.dumps(said))
"""
BEYOND = (
    "aiohttp,alembic,cel_expr_python,cryptography,httpx_aiohttp,jinja2,joserfc,litestar,phonenumbers,psycopg,re2,rich,"
    "sqlalchemy,stamina,stdnum,structlog,typer,uvicorn,yaml"
)


def test_the_base_install_asks_a_server_and_withholds_only_streams_that_it_cannot_inspect(tmp_path):
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "policy.yaml").write_text(POLICY)
    with living(tmp_path / "server") as server:
        env = os.environ | {"TAPPASS_URL": server.url, "TAPPASS_API_KEY": server.key, "PYTHONPATH": python_path()}
        # trio is no part of the base install, but whoever uses it has it.
        done = subprocess.run(
            [sys.executable, "-c", AGENT, BEYOND], env=env, text=True, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.pop("loaded") == []
    assert said["sync"] == said["asyncio"] == said["trio"] == "to [EMAIL]"
    assert said["blocked_by"] == "scan-unavailable"
    assert "`mail_stream` ran, but its stream is withheld" in said["stream"]
    assert "extra `embedded`" in said["stream"]


@pytest.mark.parametrize(("backend", "used"), [("asyncio", "AiohttpTransport"), ("trio", "AsyncHTTPTransport")])
def test_the_fast_transport_is_used_where_it_works(backend, used, tmp_path):
    (tmp_path / "server").mkdir()

    @tool(name="quick_remote")
    async def quick() -> None: ...

    with living(tmp_path / "server") as server:

        async def main() -> str:
            async with tappass_session_async(url=server.url, api_key=server.key):
                async with anyio.create_task_group() as group:
                    for _ in range(16):
                        group.start_soon(quick)
                plane = connect(server.url, server.key)
                return type(await plane.connections._atransport()).__name__  # type: ignore[attr-defined]

        # Twice: the connections of an event loop end with it.
        assert [anyio.run(main, backend=backend) for _ in range(2)] == [used, used]
        from tappass.session.registry import registry

        registry.shutdown()


def test_a_loop_that_closes_its_generators_and_runs_on_gets_new_connections(tmp_path):
    (tmp_path / "server").mkdir()

    @tool(name="again_remote")
    async def again() -> str:
        return "ran"

    async def main() -> str:
        async with tappass_session_async(url=server.url, api_key=server.key):
            return await again()

    with living(tmp_path / "server") as server, warnings.catch_warnings():
        # What asyncio says of generators that are begun after that.
        warnings.simplefilter("ignore", ResourceWarning)
        loop = asyncio.new_event_loop()
        try:
            for _ in range(3):
                assert loop.run_until_complete(main()) == "ran"
                loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
