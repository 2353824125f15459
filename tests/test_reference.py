"""The public reference, line by line: names, signatures, the five ids everywhere, the error tree."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import anyio
import pytest

import tappass
from tappass import (
    Agent,
    ApprovalRequired,
    AsyncAgent,
    AuditEvent,
    BreakGlassActive,
    ChatChunk,
    ChatResponse,
    GovernanceDecision,
    PolicyBlockError,
    RedactionApplied,
    TapPassConfigError,
    TapPassConnectionError,
    TapPassError,
    ToolIntegrityViolation,
    TrustTierDenied,
    current_session,
    govern,
    governed,
    tappass_session,
    tappass_session_async,
    tool,
)
from tappass.testing import memory_plane
from tappass.wire.correlation import Correlation
from tappass.wire.findings import Redaction
from tests.fake_model import FakeModel, text
from tests.living import remote_plane


@pytest.fixture(params=["embedded", "remote"])
def tappass_plane(request, tmp_path):
    if request.param == "embedded":
        with memory_plane() as made:
            yield made
        return
    (tmp_path / "server").mkdir()
    with remote_plane(tmp_path / "server") as remote:
        yield remote


@pytest.fixture
def audit_events(tappass_plane):
    return tappass_plane.events


FIVE = ("session_id", "task_id", "agent_uuid", "pipeline_uuid", "audit_url")


def parameters(function: object) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_every_public_name_is_there_and_listed_in_order():
    assert tappass.__all__ == sorted(tappass.__all__)
    for name in tappass.__all__:
        if tappass._HOMES[name].startswith("tappass_adapters"):
            _is_there_or_names_its_extra(name)
        else:
            assert getattr(tappass, name).__doc__, name


def _is_there_or_names_its_extra(name: str) -> None:
    """A guard whose framework is not installed says what to install; where it is, tests/adapters has it too."""
    try:
        described = getattr(tappass, name).__doc__
    except TapPassConfigError as error:
        described = re.search(r"needs tappass's extra `[a-z0-9-]+`, which is not installed", str(error))
    assert described, name


def test_agents_are_made_as_the_reference_says():
    agent = parameters(Agent)
    assert list(agent)[:2] == ["url", "api_key"]
    assert agent["url"].default is None
    assert agent["api_key"].default is None
    assert agent["api_key"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    keywords = {"model": "gpt-4o-mini", "respect_breakglass": False, "raise_on_redaction": False}
    other = parameters(AsyncAgent)
    assert next(iter(other)) == "url"
    assert other["api_key"].default == ""
    for made in (agent, other):
        for name, default in keywords.items():
            assert made[name].kind is inspect.Parameter.KEYWORD_ONLY
            assert made[name].default in (default, None), name
    assert other["api_key"].kind is inspect.Parameter.KEYWORD_ONLY
    for made in (Agent, AsyncAgent):
        for method in (made.chat, made.stream):
            names = parameters(method)
            assert list(names)[:2] == ["self", "prompt"]
            for name in ("model", "metadata"):
                assert names[name].kind is inspect.Parameter.KEYWORD_ONLY
                assert names[name].default is None


def test_sessions_are_opened_by_keyword_alone():
    for function in (tappass_session, tappass_session_async):
        names = parameters(function)
        for name in ("url", "api_key", "name", "agent", "metadata", "mode"):
            assert names[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert {"url", "api_key"} <= parameters(govern).keys()


def test_the_error_tree_is_the_references():
    assert TapPassError.__mro__[1] is Exception
    for error in (TapPassConnectionError, TapPassConfigError, GovernanceDecision):
        assert error.__bases__ == (TapPassError,)
    for error in (
        PolicyBlockError,
        RedactionApplied,
        ApprovalRequired,
        TrustTierDenied,
        BreakGlassActive,
        ToolIntegrityViolation,
    ):
        assert error.__bases__ == (GovernanceDecision,)


IDS = Correlation(session_id="ses_1", task_id="tsk_1", agent_uuid="a", pipeline_uuid="p", audit_url="http://x/ses_1")
DECISIONS = [
    (PolicyBlockError, {"blocked_by": "r", "classification": "SECRET"}),
    (
        RedactionApplied,
        {
            "redactions": (Redaction(kind="EMAIL", start=0, end=3, replacement="[EMAIL]"),),
            "redacted_content": "[EMAIL]",
        },
    ),
    (ApprovalRequired, {"approval_url": "http://x", "resume_token": "t", "expires_at": "2026-01-01T00:00:00Z"}),
    (TrustTierDenied, {"required_tier": "trusted", "actual_tier": "standard"}),
    (BreakGlassActive, {"level": "relax", "expires_at": "2026-01-01T00:00:00Z"}),
    (ToolIntegrityViolation, {"tool_name": "pay", "violation": "revoked"}),
]


@pytest.mark.parametrize(("kind", "fields"), DECISIONS)
def test_every_decision_carries_its_fields_a_reason_and_five_ids_through_pickle_and_copy(kind, fields):
    error = kind("`pay` was refused", reason="because", correlation=IDS, **fields)
    for twin in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is kind
        assert str(twin) == "`pay` was refused"
        assert twin.reason == "because"
        for name, value in fields.items():
            assert getattr(twin, name) == value
        assert [getattr(twin, name) for name in FIVE] == [getattr(IDS, name) for name in FIVE]


def test_there_is_no_session_outside_one():
    assert current_session() is None


def test_the_readmes_example_runs_with_ids_on_everything(tappass_plane, audit_events):
    with FakeModel(default=text("a short ", "summary")) as model:
        tappass_plane.settings(f'[[upstream]]\nmatch = "*"\nbase_url = "{model.base_url}"\n')

        @tool(name="send_mail_reference")
        def send_mail(to: str, body: str) -> str:
            return f"sent to {to}"

        @governed(name="invoice-run")
        def run(invoice: str) -> str:
            reply = Agent().chat(f"Summarise: {invoice}")
            assert isinstance(reply, ChatResponse)
            assert str(reply) == reply.content == "a short summary"
            assert [bool(getattr(reply, name)) for name in FIVE] == [True] * 5
            assert reply.session_id == current_session().session_id
            assert reply.model
            assert reply.usage.total_tokens > 0
            assert reply.tool_calls == reply.redactions == ()
            chunks = list(Agent().stream("again"))
            assert "".join(map(str, chunks)) == "a short summary"
            for chunk in chunks:
                assert isinstance(chunk, ChatChunk)
                assert [bool(getattr(chunk, name)) for name in FIVE] == [True] * 5
            return send_mail("billing@acme.com", reply.content)

        with tappass_session(name="nightly") as session:
            assert run("...") == "sent to billing@acme.com"
            assert session.session_id
            assert session.session_id in session.audit_url
    events = audit_events()
    calls = [e for e in events if e.type == "call.decided"]
    assert [e.kind for e in calls] == ["llm", "llm", "tool"]
    for event in calls + [e for e in events if e.type == "call.ended"]:
        assert isinstance(event, AuditEvent)
        assert [bool(getattr(event, name)) for name in FIVE] == [True] * 5
    assert len([e for e in events if e.type == "call.ended"]) == 3


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_async_agent_is_the_same_awaited(backend, tappass_plane):
    with FakeModel(default=text("a short ", "summary")) as model:
        tappass_plane.settings(f'[[upstream]]\nmatch = "*"\nbase_url = "{model.base_url}"\n')

        async def main() -> None:
            async with tappass_session_async() as session, AsyncAgent() as agent:
                reply = await agent.chat([{"role": "user", "content": "hello"}])
                assert reply.session_id == session.session_id
                streamed = "".join([str(chunk) async for chunk in agent.stream("hello")])
                assert streamed == str(reply) == "a short summary"

        anyio.run(main, backend=backend)


def test_govern_gives_callables_back_whose_calls_are_events_of_the_session(tappass_plane, audit_events):
    def add_reference(a: int, b: int = 1) -> int:
        return a + b

    async def aadd_reference(a: int) -> int:
        return a

    add, aadd = govern([add_reference, aadd_reference])
    with tappass_session() as session:
        assert add(1) == 2
        assert anyio.run(aadd, 5) == 5
    decided = audit_events(type="call.decided")
    assert [e.name for e in decided] == ["add_reference", "aadd_reference"]
    assert {e.session_id for e in decided} == {session.session_id}
