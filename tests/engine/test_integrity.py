"""Tool integrity: a tool runs as the definition that was approved, and whoever changed that is on record."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tappass.errors import TapPassConfigError
from tappass.testing import MemoryPlane, memory_plane
from tappass.wire.codec import canonical
from tappass.wire.decisions import Action, Decision, DecisionRequest, ToolDefinition
from tappass.wire.refusals import IntegrityViolation
from tappass.wire.sessions import Opening
from tests.people import ADA, BOB, People


class Caller:
    """Calls tools of whatever definition, as an enforcement point would."""

    def __init__(self, plane: MemoryPlane) -> None:
        self.engine = plane.plane.engine
        self.session_id = self.engine.open(Opening(name="integrity")).session_id
        self.calls = 0

    def call(self, version: str, *, name: str = "pay", server: str = "bank", claim: str = "") -> Decision:
        definition = ToolDefinition(name=name, description=version, server=server)
        self.calls += 1
        return self.engine.decide(
            DecisionRequest(
                action=Action(
                    kind="tool",
                    name=name,
                    arguments={},
                    server=server,
                    definition_digest=claim or digest(definition),
                ),
                session_id=self.session_id,
                task_id=f"tsk_{self.calls}",
                capabilities=("scan_result", "redact_arguments"),
                definition=definition,
            )
        )


def digest(definition: ToolDefinition) -> str:
    return hashlib.sha256(canonical(definition)).hexdigest()


def violation(decision: Decision) -> str:
    refusal = decision.refusal
    assert refusal is None or isinstance(refusal, IntegrityViolation)
    assert decision.outcome == ("allow" if refusal is None else "block")
    return refusal.violation if refusal is not None else ""


@pytest.fixture
def people(tappass_plane: MemoryPlane) -> People:
    return People(tappass_plane)


@pytest.fixture
def caller(tappass_plane: MemoryPlane) -> Caller:
    return Caller(tappass_plane)


def under(plane: MemoryPlane, mode: str) -> Caller:
    plane.settings(f'[tools]\nintegrity = "{mode}"')
    return Caller(plane)


def test_an_mcp_tool_is_approved_by_first_use_and_held_to_it(people: People, caller: Caller) -> None:
    assert violation(caller.call("v1")) == ""
    assert violation(caller.call("v2")) == "hash_mismatch"
    assert violation(caller.call("v2")) == "hash_mismatch"
    assert violation(caller.call("v1")) == ""
    assert people.types("pin.") == [("pin.approved", "first-use"), ("pin.pending", "")]
    people.pins.approve(ADA, people.pins.one("pay"), "read the diff")
    assert violation(caller.call("v2")) == ""


def test_the_same_name_of_another_server_is_another_tool(people: People, caller: Caller) -> None:
    assert violation(caller.call("v1")) == ""
    assert violation(caller.call("v2", server="shop")) == ""
    with pytest.raises(TapPassConfigError, match="bank/pay"):
        people.pins.one("pay")
    assert people.pins.one("shop/pay").definition.description == "v2"


def test_a_rename_is_a_new_tool(people: People, caller: Caller) -> None:
    caller.call("v1")
    assert violation(caller.call("v1", name="transfer")) == ""
    assert [pin.name for pin in people.pins.all()] == ["pay", "transfer"]


def test_approve_lets_nothing_run_that_nobody_has_approved(people: People, tappass_plane: MemoryPlane) -> None:
    caller = under(tappass_plane, "approve")
    assert violation(caller.call("v1", server="")) == "not_approved"
    assert violation(caller.call("v1", server="")) == "not_approved"
    assert people.types("pin.") == [("pin.pending", "")]
    people.pins.approve(ADA, people.pins.one("pay"), "ours")
    assert violation(caller.call("v1", server="")) == ""
    assert violation(caller.call("v2", server="")) == "hash_mismatch"


def test_record_lets_a_changed_tool_run_and_says_so_once(people: People, caller: Caller) -> None:
    for version in ("v1", "v1", "v2", "v2", "v1"):
        assert violation(caller.call(version, server="")) == ""
    (event,) = people.plane.events(type="pin.changed")
    old, new = (digest(ToolDefinition(name="pay", description=version)) for version in ("v1", "v2"))
    assert (event.definition, event.details, event.task_id) == (new, {"old": old}, "tsk_3")
    assert [pin.state for pin in people.pins.all()] == ["recorded", "recorded"]


@pytest.mark.parametrize("mode", ["record", "first-use", "approve"])
def test_a_revoked_definition_never_runs(people: People, tappass_plane: MemoryPlane, mode: str) -> None:
    caller = under(tappass_plane, mode)
    caller.call("v1", server="")
    people.pins.revoke(BOB, people.pins.one("pay"), "it leaks")
    assert violation(caller.call("v1", server="")) == "revoked"
    (event,) = people.plane.events(type="pin.revoked")
    assert (event.actor, event.name) == ("bob", "pay")
    assert "leaks" not in str(event)
    people.pins.approve(ADA, people.pins.one("pay"), "it does not")
    assert violation(caller.call("v1", server="")) == ""


def test_after_a_revocation_first_use_approves_nothing(people: People, caller: Caller) -> None:
    caller.call("v1")
    people.pins.revoke(BOB, people.pins.one("pay"), "it leaks")
    assert violation(caller.call("v2")) == "not_approved"


def test_a_definition_that_is_not_the_one_it_claims_to_be_does_not_run(people: People, caller: Caller) -> None:
    approved = digest(ToolDefinition(name="pay", description="v1", server="bank"))
    assert violation(caller.call("evil", claim=approved)) == "hash_mismatch"
    assert violation(caller.call("evil", server="", claim="0" * 64)) == "hash_mismatch"
    assert not people.types("pin.")


def test_what_was_refused_is_on_record(people: People, caller: Caller) -> None:
    caller.call("v1")
    caller.call("v2")
    refused = people.plane.events(type="call.decided")[-1]
    assert (refused.outcome, refused.blocked_by) == ("block", "tool-integrity")


def test_observe_does_not_relax_it(people: People, tappass_plane: MemoryPlane) -> None:
    tappass_plane.policy("version: 1\nallow_observe: true")
    caller = under(tappass_plane, "approve")
    caller.session_id = caller.engine.open(Opening(mode="observe")).session_id
    assert violation(caller.call("v1", server="")) == "not_approved"


@pytest.mark.parametrize("mode", ["record", "first-use", "approve"])
def test_a_call_of_a_known_tool_asks_the_database_nothing(tappass_plane: MemoryPlane, mode: str) -> None:
    people, caller = People(tappass_plane), under(tappass_plane, mode)
    caller.call("v1", server="")
    if mode == "approve":
        people.pins.approve(ADA, people.pins.one("pay"), "ours")
    caller.call("v1", server="")
    statements: list[str] = []
    connection = caller.engine.store._link.ready()
    connection.set_trace_callback(statements.append)
    caller.call("v1", server="")
    connection.set_trace_callback(None)
    assert statements
    assert not [sql for sql in statements if "pin" in sql or "tool_definition" in sql or "FROM break_glass" in sql]


VERSIONS = st.sampled_from(["v1", "v2", "v3"])


class PinMachine(RuleBasedStateMachine):
    """Pins of one tool under first use, held against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.context = memory_plane()
        plane = self.context.__enter__()
        self.people, self.caller = People(plane), Caller(plane)
        self.model: dict[str, str] = {}
        self.leaves: list[tuple[str, str]] = []

    @rule(version=VERSIONS)
    def call(self, version: str) -> None:
        known, states = self.model.get(version), set(self.model.values())
        expected = ""
        if known is None and not states & {"approved", "revoked"}:
            self.model[version] = "approved"
            self.leaves.append(("pin.approved", "first-use"))
        elif known is None:
            self.model[version] = "pending"
            self.leaves.append(("pin.pending", ""))
        if known == "revoked":
            expected = "revoked"
        elif self.model[version] == "pending":
            expected = "hash_mismatch" if "approved" in states else "not_approved"
        assert violation(self.caller.call(version)) == expected

    @rule(version=VERSIONS, state=st.sampled_from(["approved", "revoked"]))
    def decide(self, version: str, state: str) -> None:
        if version not in self.model:
            return
        pin = next(pin for pin in self.people.pins.all() if pin.definition.description == version)
        (self.people.pins.approve if state == "approved" else self.people.pins.revoke)(ADA, pin, "a reason")
        if self.model[version] != state:
            self.model[version] = state
            self.leaves.append((f"pin.{state}", "ada"))

    def teardown(self) -> None:
        pins = {pin.definition.description: pin.state for pin in self.people.pins.all()}
        leaves = self.people.types("pin.")
        self.context.__exit__(None, None, None)
        assert pins == self.model
        assert leaves == self.leaves


PinMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestPinMachine = PinMachine.TestCase


def ask(plane: MemoryPlane, definition: ToolDefinition, *, doubt: str = "", number: list[int] = []) -> Decision:  # noqa: B006
    """Ask for a tool as an MCP guard does."""
    number.append(0)
    engine = plane.plane.engine
    action = Action(
        kind="tool", name=definition.name, arguments={}, server=definition.server, definition_digest=digest(definition)
    )
    return engine.decide(
        DecisionRequest(
            action=action,
            session_id=engine.open(Opening(name="doubt")).session_id,
            task_id=f"tsk_doubt_{len(number)}",
            capabilities=("scan_result", "redact_arguments"),
            definition=definition,
            doubt=doubt,
        )
    )


@pytest.mark.parametrize("doubt", ["renamed", "text"])
def test_a_doubt_that_a_person_can_settle_waits_for_one(doubt):
    tool = ToolDefinition(name="pay", description="Pays.", server="bank")
    with memory_plane() as plane:
        assert violation(ask(plane, tool, doubt=doubt)) == "not_approved"
        people = People(plane)
        waits = people.pins.one("bank/pay")
        assert waits.state == "pending"
        people.pins.approve(ADA, waits, "looked at")
        assert violation(ask(plane, tool, doubt=doubt)) == ""
        plane.settings('[tools]\nmcp_integrity = "record"\n')
        assert violation(ask(plane, ToolDefinition(name="other", server="bank"), doubt=doubt)) == ""


@pytest.mark.parametrize("doubt", ["unlisted", "shadowed", "something from the future"])
def test_a_doubt_that_nobody_can_settle_is_a_no_in_every_mode(doubt):
    tool = ToolDefinition(name="pay", description="Pays.", server="bank")
    with memory_plane() as plane:
        assert violation(ask(plane, tool)) == ""
        assert violation(ask(plane, tool, doubt=doubt)) == "not_approved"
        plane.settings('[tools]\nmcp_integrity = "record"\n')
        assert violation(ask(plane, tool, doubt=doubt)) == "not_approved"
        assert violation(ask(plane, tool)) == ""


def test_a_tool_under_another_name_is_known_by_the_rest_of_it():
    tool = ToolDefinition(name="pay", description="Pays.", server="bank", listed={"title": "Pay"})
    renamed = ToolDefinition(name="transfer", description="Pays.", server="bank", listed={"title": "Transfer"})
    wordless = ToolDefinition(name="a", server="bank", listed={})
    with memory_plane() as plane:
        assert violation(ask(plane, tool)) == ""
        decision = ask(plane, renamed)
        assert violation(decision) == "not_approved"
        assert "renamed" in decision.reason
        # Of a description that says nothing, nothing can be told.
        assert violation(ask(plane, wordless)) == ""
        assert violation(ask(plane, ToolDefinition(name="b", server="bank", listed={}))) == ""
        # Another server's tool is another tool.
        assert violation(ask(plane, ToolDefinition(name="pay", description="Pays.", server="other", listed={}))) == ""


def test_a_servers_own_tools_are_pinned_as_own_code():
    tool = ToolDefinition(name="pay", description="Pays.", server="bank", package="bank")
    changed = ToolDefinition(name="pay", description="Pays, and logs.", server="bank", package="bank")
    with memory_plane() as plane:
        assert violation(ask(plane, tool)) == ""
        assert violation(ask(plane, changed)) == ""
        plane.settings('[tools]\nintegrity = "first-use"\n')
        assert violation(ask(plane, tool)) == ""
        assert violation(ask(plane, changed)) == "hash_mismatch"


def test_what_else_a_server_lists_is_part_of_the_digest_and_of_no_other_tools():
    plain = ToolDefinition(name="pay", server="bank")
    assert b"listed" not in canonical(plain)
    assert digest(plain) != digest(ToolDefinition(name="pay", server="bank", listed={}))
