"""Whatever is sent: no 5xx, no answer that `/openapi.json` does not tell of, bounded in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.postgres import fresh_database
from tests.server.governed import Governed, governed

EXAMPLES = 25
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governed]:
    with governed(tmp_path_factory.mktemp("fuzzed")) as subject:
        yield subject


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governed]:
    """A server over each of the databases: what one takes for a text may be none to the other."""
    if request.param == "sqlite":
        yield request.getfixturevalue("plane")
        return
    with fresh_database() as database, governed(tmp_path, database=database) as subject:
        yield subject


def described(plane: Governed) -> Any:
    return httpx.get(f"{plane.served.url}/openapi.json").json()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
def test_every_answer_is_described_and_none_is_a_fault(plane: Governed, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(described(plane))
    schema.config.update(base_url=plane.served.url)
    agent = plane.register()["api_key"]
    failed: list[str] = []
    for result in schema.get_all_operations():
        operation = result.ok()
        examine = _examination(operation, mode, _key_for(plane, operation.path, agent))
        try:
            examine()
        except Unsatisfiable:
            # It takes nothing, so nothing about it can be wrong.
            assert mode is GenerationMode.NEGATIVE, operation.path
        except (Exception, BaseExceptionGroup) as error:
            failed.append(f"{operation.method} {operation.path}: {error}")
    assert not failed, "\n\n".join(failed)[:20_000]


def _examination(operation: Any, mode: GenerationMode, key: str) -> Any:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def examine(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, headers={"authorization": f"Bearer {key}"}, timeout=40)

    return examine


def _key_for(plane: Governed, path: str, agent: str) -> str:
    return plane.served.admin_key if path.startswith(("/agents", "/v1/audit")) else agent


HOSTILE = [
    b"",
    b"\xff\xfe\x00",
    b'{"type": "\xc3\x28"}',
    b'"\xed\xa0\x80"',
    b'{"a": "\\ud800"}',
    b"null",
    b"[]",
    b"{}",
    b"7",
    b'"text"',
    b"[null]",
    b"[{}]",
    b"[[]]",
    b"NaN",
    b'{"type": 1e999}',
    b'{"payload": {"tool": "x", "args": {"n": 123456789012345678901234567890}}, "type": "TOOL_CALL"}',
    b'{"payload": {"tool": "x\\u0000", "args": {"\\u0000": "\\u0000"}}, "type": "TOOL_CALL"}',
    b'{"payload": {"tool": "x", "args": {"s": "\\ud800"}}, "type": "TOOL_CALL"}',
    b'{"payload": {"tool": "x", "args": {}}, "type": "TOOL_CALL", "session_id": "\\ud800"}',
    b'{"payload": {"tool": "x", "args": {}}, "type": "TOOL_CALL", "behavior_id": "\\ud800\\u0000"}',
    b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"model": "m", "messages": [7]}',
    b'{"model": "m\\u0000", "messages": []}',
    b'{"model": "m", "messages": [], "tools": [{"type": "function", "function": {"name": "a\\u0000"}}]}',
    b'{"payload": {"tool": "x", "server": "\\u0000"}, "type": "TOOL_CALL", "definition_digest": "\\u0000"}',
    b'{"model": "m", "messages": [], "n": 7, "stream": "yes"}',
    b'{"id": "a\\nb", "metadata": {"x": 1e308}}',
    DEEP,
    b'{"payload":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b',"type":"TOOL_CALL"}',
]


def test_hostile_bodies_are_refused_in_time(either: Governed) -> None:
    """Every route that takes a body takes these without a fault, in time, and goes on serving."""
    plane = either
    agent = plane.register()["api_key"]
    failed = []
    client = httpx.Client(timeout=20, trust_env=False)
    for path, item in described(plane)["paths"].items():
        for method in item.keys() & {"post", "patch", "put", "delete"}:
            url = plane.served.url + path.replace("{", "").replace("}", "")
            headers = {
                "authorization": f"Bearer {_key_for(plane, path, agent)}",
                "content-type": "application/json",
            }
            for body in HOSTILE:
                began = time.monotonic()
                answer = client.request(method, url, content=body, headers=headers)
                took_s = time.monotonic() - began
                if answer.status_code >= 500 or str(answer.status_code) not in item[method]["responses"] or took_s > 5:
                    failed.append(f"{method} {path} {body[:60]!r}: {answer.status_code} {took_s:.2f} s {answer.text}")
    client.close()
    assert not failed, "\n".join(failed)
    assert httpx.get(f"{plane.served.url}/health").status_code == 200
