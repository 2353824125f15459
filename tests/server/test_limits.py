"""What strangers may send: bounded in size, depth and time, over a real socket, and in memory."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tappass.server import connections
from tappass.server.limits import ADDRESSES, DEEPEST, FAILURES, WINDOW_S, Attempts, too_deep
from tests.serving import Served, serve

SETTINGS = """
[server]
body_bytes = 200_000
batch_bytes = 400_000
body_timeout_s = 1.0
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("served")
    (directory / "tappass.toml").write_text(SETTINGS)
    with serve(directory) as server:
        yield server


def post(served: Served, content: object, path: str = "/agents/register") -> httpx.Response:
    headers = {"Authorization": f"Bearer {served.admin_key}", "Content-Type": "application/json"}
    return httpx.post(f"{served.url}{path}", content=content, headers=headers, timeout=20)


def raw(served: Served, *pieces: bytes, pause_s: float = 0.0, wait_s: float = 20.0) -> bytes:
    """Send bytes as they are; return everything that comes back until the server closes or nothing comes."""
    received = b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=wait_s) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause_s)
            while chunk := connection.recv(65536):
                received += chunk
        except (ConnectionError, TimeoutError):
            pass
    return received


def head(served: Served, *lines: str, length: int = 0) -> bytes:
    wanted = [
        "POST /agents/register HTTP/1.1",
        "Host: plane.test",
        f"Authorization: Bearer {served.admin_key}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *lines,
    ]
    return "\r\n".join([*wanted, "", ""]).encode()


def test_a_body_over_the_limit_is_refused_whether_it_says_so_or_not(served: Served) -> None:
    large = json.dumps({"agent_id": "x", "description": "y" * 200_000}).encode()
    pieces = (large[start : start + 1000] for start in range(0, len(large), 1000))
    for content in (large, pieces):
        try:
            answer = post(served, content)
        except (httpx.WriteError, httpx.ReadError):
            # Closed while we were still sending: refused as well.
            continue
        assert answer.status_code == 413
        assert "200000 bytes" in answer.json()["detail"]


def test_a_body_that_only_says_that_it_is_large_is_refused_at_once(served: Served) -> None:
    began = time.monotonic()
    answer = raw(served, head(served, "Connection: close", length=10**12))
    assert answer.startswith(b"HTTP/1.1 413")
    assert time.monotonic() - began < 1


def test_nobodys_body_is_not_waited_for(served: Served) -> None:
    lines = b"POST /agents/register HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n"
    began = time.monotonic()
    assert raw(served, lines).startswith(b"HTTP/1.1 401")
    assert time.monotonic() - began < 0.9


def test_a_body_that_comes_too_slowly_is_given_up(served: Served) -> None:
    began = time.monotonic()
    answer = raw(served, head(served, length=100), b'{"agent_id": ')
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began < 5


def test_a_head_that_comes_too_slowly_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(
        "import tappass.server.connections as c\nc.HEAD_S = 0.5\n", encoding="utf-8"
    )
    from tests.serving import python_path

    with serve(tmp_path, env={"PYTHONPATH": f"{patch}:{python_path()}"}) as slow:
        for sent in (b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "):
            assert raw(slow, sent, wait_s=10).startswith(b"HTTP/1.1 408")
        # A connection that has been used may rest between requests.
        with httpx.Client() as client:
            assert client.get(f"{slow.url}/health").status_code == 200
            time.sleep(1)
            assert client.get(f"{slow.url}/health").status_code == 200


@pytest.mark.parametrize("size", [connections.HEAD_BYTES + 1, 2_000_000])
def test_a_huge_head_is_refused(served: Served, size: int) -> None:
    answer = raw(served, head(served, f"X-Large: {'x' * size}"))
    assert answer.startswith(b"HTTP/1.1 431") or answer == b""
    many = [f"X-{number}: y" for number in range(size // 8)]
    assert raw(served, head(served, *many)).startswith(b"HTTP/1.1 431")
    long = f"GET /{'x' * size} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert raw(served, long).startswith(b"HTTP/1.1 431")
    assert httpx.get(f"{served.url}/health").status_code == 200


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 50]
)
def test_what_is_no_http_is_refused(served: Served, sent: bytes) -> None:
    assert raw(served, sent).startswith(b"HTTP/1.1 400")


def test_a_body_and_its_head_may_come_in_one_piece_and_requests_in_a_row(served: Served) -> None:
    body = json.dumps({"agent_id": "one-piece", "description": "z" * 3000}).encode()
    whole = head(served, length=len(body)) + body
    again = whole.replace(b"one-piece", b"two-piece").replace(b"Host:", b"Connection: close\r\nHost:")
    assert raw(served, whole + again).count(b"HTTP/1.1 200") == 2


def test_memory_is_bounded_whatever_is_sent(served: Served) -> None:
    before = _rss(served)
    for _ in range(5):
        raw(served, head(served, f"X-Large: {'x' * 8_000_000}"))
        raw(served, head(served, length=10**9), b"[" * 8_000_000)
        post(served, b"[" * 150_000)
        post(served, b'"' * 150_000)
        post(served, b'{"a":' * 30_000)
    assert _rss(served) - before < 30_000_000


def _rss(served: Served) -> int:
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@pytest.mark.parametrize(
    ("body", "deep"),
    [
        (b"[" * DEEPEST + b"]" * DEEPEST, False),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), True),
        (b'{"a":' * (DEEPEST + 1) + b"1" + b"}" * (DEEPEST + 1), True),
        (b"[" * 100_000, True),
        (b'"' + b"[" * 1000 + b'"', False),
        (b'"\\"' + b"[" * 1000 + b'"', False),
        (b'["\\\\",' + b"[" * 300 + b"]" * 300 + b"]", True),
        (b"[" + b",".join([b'{"a":["[[[["]}'] * 1000) + b"]", False),
        (b'"' * 500_000, False),
        (b"", False),
    ],
)  # fmt: skip
def test_depth_is_counted_outside_of_strings(body: bytes, deep: bool) -> None:
    began = time.monotonic()
    assert too_deep(body) is deep
    assert time.monotonic() - began < 1


@given(
    st.recursive(
        st.none() | st.text(alphabet='[]{}"\\ a') | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='[]{}"\\ a'), inner),
        max_leaves=30,
    ),
    st.integers(0, 400),
)
def test_depth_is_that_of_the_value(value: object, more: int) -> None:
    for _ in range(more):
        value = [value]
    assert too_deep(msgspec.json.encode(value)) is (_depth(value) > DEEPEST)


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        deepest += 1
        level = [each for item in level for each in (item.values() if isinstance(item, dict) else item)]
    return deepest


def test_a_deep_body_of_the_largest_size_is_refused_in_a_moment() -> None:
    body = b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000
    began = time.monotonic()
    assert too_deep(body)
    assert time.monotonic() - began < 2


def test_wrong_keys_are_counted_by_address_for_a_minute_and_in_bounded_memory() -> None:
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    assert [attempts.failed("a") for _ in range(FAILURES)] == [0] * FAILURES
    assert attempts.failed("a") == attempts.waiting("a") == WINDOW_S + 1
    assert attempts.failed("b") == attempts.waiting("b") == 0
    now[0] += WINDOW_S
    assert attempts.waiting("a") == 0
    assert attempts.failed("a") == 0
    for number in range(ADDRESSES + 10):
        attempts.failed(str(number))
    assert len(attempts._failed) == ADDRESSES
