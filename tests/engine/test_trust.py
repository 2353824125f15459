"""Trust tiers: held by the agent, changed by people with a reason, in force for the very next call."""

from __future__ import annotations

import hashlib

import pytest

from tappass import TrustTierDenied, tappass_session, tool
from tappass.errors import TapPassConfigError
from tappass.testing import MemoryPlane
from tests.people import ADA, BOB, People

POLICY = "version: 1\nrules: [{id: trusted-only, tool: pay, effect: require_tier, tier: trusted}]"


@pytest.fixture
def people(tappass_plane: MemoryPlane) -> People:
    tappass_plane.policy(POLICY)
    return People(tappass_plane)


def test_a_tier_counts_in_a_session_that_is_open_also_for_a_call_that_was_denied_before(people: People) -> None:
    paid = []
    pay = tool(name="pay")(lambda amount: paid.append(amount))
    with tappass_session(agent="clerk"):
        with pytest.raises(TrustTierDenied) as denied:
            pay(1)
        assert (denied.value.required_tier, denied.value.actual_tier) == ("trusted", "standard")
        people.agents.set_tier(ADA, "clerk", "trusted", "reviewed")
        pay(1)
        people.agents.set_tier(ADA, "clerk", "limited", "an incident")
        with pytest.raises(TrustTierDenied, match="limited"):
            pay(1)
    assert paid == [1]


def test_a_change_names_who_and_when_in_the_log_and_why_beside_it(people: People) -> None:
    people.agents.add(ADA, "clerk", framework="crewai", description="pays")
    people.agents.set_tier(BOB, "clerk", "trusted", "  reviewed in March ")
    (event,) = people.plane.events(type="tier.changed")
    assert (event.actor, event.name, event.tier) == ("bob", "clerk", "trusted")
    assert event.details == {"old": "standard", "new": "trusted"}
    assert event.content
    assert "reviewed" not in str(event)
    registered, changed = people.agents.history("clerk")
    assert (registered.actor, registered.new) == ("ada", "standard")
    assert (changed.actor, changed.old, changed.new, changed.reason) == (
        "bob",
        "standard",
        "trusted",
        "reviewed in March",
    )


def test_a_tier_that_is_held_already_leaves_no_leaf(people: People) -> None:
    people.agents.add(ADA, "clerk")
    people.agents.set_tier(ADA, "clerk", "standard", "why not")
    assert not people.plane.events(type="tier.changed")


@pytest.mark.parametrize(
    ("name", "tier", "reason", "said"),
    [
        ("nobody", "trusted", "r", "no agent"),
        ("clerk", "root", "r", "unknown"),
        ("clerk", "trusted", " \n", "reason"),
        ("clerk", "trusted", "x" * 5000, "5000"),
        ("clerk", "trusted", "\ud800", "Unicode"),
    ],
)
def test_a_change_that_is_none_is_refused(people: People, name: str, tier: str, reason: str, said: str) -> None:
    people.agents.add(ADA, "clerk")
    with pytest.raises(TapPassConfigError, match=said):
        people.agents.set_tier(ADA, name, tier, reason)
    assert people.agents.find("clerk").tier == "standard"


def test_an_agent_that_code_named_is_registered_as_the_same_one(people: People) -> None:
    with tappass_session(agent="clerk") as session:
        pass
    assert people.agents.find("clerk").registered_by == ""
    added = people.agents.add(ADA, "clerk", description="pays")
    assert (added.agent_uuid, added.registered_by, added.description) == (session.agent_uuid, "ada", "pays")
    with pytest.raises(TapPassConfigError, match="already"):
        people.agents.add(BOB, "clerk")


def test_a_key_is_kept_by_its_digest_alone_and_revoked_once(people: People) -> None:
    people.agents.add(ADA, "clerk")
    key_id, key = people.agents.new_key(ADA, "clerk", "nightly")
    assert key.startswith("tp_")
    rows = people.plane.plane.engine.store.read.query("SELECT * FROM api_key")
    assert hashlib.sha256(key.encode()).digest() in rows[0]
    assert key not in str(rows)
    people.agents.revoke_key(BOB, "clerk", key_id)
    assert people.agents.keys("clerk")[0].revoked_at
    with pytest.raises(TapPassConfigError, match="no valid key"):
        people.agents.revoke_key(BOB, "clerk", key_id)
    assert people.types("key.") == [("key.created", "ada"), ("key.revoked", "bob")]


def test_min_tier_holds_whatever_policy_says(people: People) -> None:
    people.plane.policy("version: 1\nrules: [{id: all, tool: '*', effect: allow}]")

    @tool(min_tier="trusted")
    def wire(amount: int) -> int:
        return amount

    with tappass_session(agent="clerk"):
        with pytest.raises(TrustTierDenied) as denied:
            wire(1)
        assert denied.value.required_tier == "trusted"
        people.agents.set_tier(ADA, "clerk", "privileged", "above it")
        assert wire(1) == 1


def test_an_unknown_min_tier_is_refused_where_it_is_written(people: People) -> None:
    with pytest.raises(TapPassConfigError, match="min_tier='root'"):
        tool(min_tier="root")(lambda: None)
    governed = tool(min_tier="trusted", name="once")(lambda: None)
    assert tool(governed) is governed
    with pytest.raises(TapPassConfigError, match="min_tier"):
        tool(min_tier="limited")(governed)
