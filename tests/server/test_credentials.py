"""Keys: kept as digests, good for what and as long as they say, each change on the record."""

from __future__ import annotations

from pathlib import Path

import pytest

from tappass.engine.approver import Approvers
from tappass.engine.credentials import ADMIN, AGENT, APPROVER, AUDITOR, PREFIXES, Credentials, digest_of
from tappass.engine.keys import Keys
from tappass.engine.leaves import Leaves
from tappass.engine.organisations import Organisations
from tappass.engine.store.sqlite import SqliteStore
from tappass.engine.trust import Agents
from tappass.errors import TapPassConfigError
from tests.people import ADA, HandClock


class Desk:
    """One organisation's keys, and a clock set by hand."""

    def __init__(self, store: SqliteStore) -> None:
        self.store, self.clock = store, HandClock()
        self.leaves = Leaves(self.clock)
        self.keys = Keys(store, self.leaves, self.clock)
        self.credentials = Credentials(store, self.clock)
        Organisations(store, self.clock).settle_in()

    def events(self) -> list[tuple[str, str, str]]:
        return [(e.type, e.actor, e.details.get("key_id", "")) for e in self.store.read.all_events()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    store = SqliteStore(tmp_path / "tappass.db")
    yield Desk(store)
    store.close()


@pytest.mark.parametrize("scope", [ADMIN, APPROVER, AUDITOR])
def test_a_key_says_its_scope_and_opens_only_that(desk: Desk, scope: str) -> None:
    made = desk.keys.create("ada", scope, name="bob")
    found = desk.credentials.principal(made.key)
    assert made.key.startswith(PREFIXES[scope])
    assert (found.name, found.scopes, found.org_id, found.project_id) == ("bob", (scope,), "org_local", "prj_local")
    assert found.may(scope)
    assert not found.may(*({ADMIN, AGENT, APPROVER, AUDITOR} - {scope}))
    assert desk.events() == [("key.created", "ada", made.key_id)]


def test_the_database_holds_a_digest_and_never_the_key(desk: Desk, tmp_path: Path) -> None:
    made = desk.keys.create("ada", ADMIN)
    desk.store.close()
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert digest_of(made.key) in held
    assert made.key.encode() not in held
    assert made.key not in repr(made)


def test_an_agents_key_is_a_registered_agents(desk: Desk) -> None:
    with pytest.raises(TapPassConfigError, match="no agent `clerk`"):
        desk.keys.create("ada", AGENT, name="clerk")
    agent = Agents(desk.store, desk.leaves).add(ADA, "clerk")
    found = desk.credentials.principal(desk.keys.create("ada", AGENT, name="clerk").key)
    assert (found.agent_uuid, found.name, found.scopes) == (agent.agent_uuid, "clerk", (AGENT,))


def test_a_deactivated_agents_key_opens_nothing(desk: Desk) -> None:
    Agents(desk.store, desk.leaves).add(ADA, "clerk")
    key = desk.keys.create("ada", AGENT, name="clerk").key
    desk.store.run(lambda tx: tx.execute("UPDATE agent SET active = 0"))
    assert desk.credentials.principal(key) is None


def test_the_key_that_init_made_opens_a_server_too(desk: Desk) -> None:
    desk.keys.create("ada", AUDITOR)
    made = Approvers(desk.store, desk.leaves, desk.clock).make()
    found = desk.credentials.principal(made.path.read_text().strip())
    assert (found.scopes, found.name) == ((APPROVER,), made.name)
    assert found.person_id


def test_a_revoked_key_is_refused_once_it_is_no_longer_believed(desk: Desk) -> None:
    made = desk.keys.create("ada", AUDITOR)
    assert desk.credentials.principal(made.key)
    desk.keys.revoke("bob", made.key_id)
    assert desk.credentials.remembered(made.key) is not None
    desk.clock.run_ns += 500_000_000
    assert desk.credentials.remembered(made.key) is None
    assert desk.credentials.principal(made.key) is None
    assert desk.events()[-1] == ("key.revoked", "bob", made.key_id)
    with pytest.raises(TapPassConfigError, match="no valid key"):
        desk.keys.revoke("bob", made.key_id)


def test_a_key_ends_when_it_expires(desk: Desk) -> None:
    key = desk.keys.create("ada", AUDITOR, expires_in_s=60).key
    desk.clock.pass_s(59)
    assert desk.credentials.principal(key)
    desk.clock.pass_s(1)
    assert desk.credentials.principal(key) is None


def test_after_a_rotation_the_old_key_is_good_for_the_overlap_and_no_longer(desk: Desk) -> None:
    old = desk.keys.create("ada", ADMIN, name="bob")
    new = desk.keys.rotate("ada", old.key_id, overlap_s=60)
    assert desk.credentials.principal(new.key).name == "bob"
    desk.clock.pass_s(59)
    assert desk.credentials.principal(old.key)
    desk.clock.pass_s(1)
    assert desk.credentials.principal(old.key) is None
    assert desk.credentials.principal(new.key)
    assert desk.events()[1:] == [("key.created", "ada", new.key_id), ("key.rotated", "ada", old.key_id)]


def test_without_an_overlap_a_rotation_ends_the_old_key(desk: Desk) -> None:
    old = desk.keys.create("ada", AUDITOR)
    new = desk.keys.rotate("ada", old.key_id)
    assert desk.credentials.principal(old.key) is None
    assert desk.credentials.principal(new.key)


def test_an_overlap_never_lengthens_a_keys_life(desk: Desk) -> None:
    old = desk.keys.create("ada", AUDITOR, expires_in_s=10)
    desk.keys.rotate("ada", old.key_id, overlap_s=60)
    desk.clock.pass_s(10)
    assert desk.credentials.principal(old.key) is None


@pytest.mark.parametrize("scope", [ADMIN, APPROVER])
def test_the_last_key_that_can_make_others_is_not_revoked(desk: Desk, scope: str) -> None:
    made = desk.keys.create("ada", scope, name="bob")
    with pytest.raises(TapPassConfigError, match="last valid"):
        desk.keys.revoke("ada", made.key_id)
    desk.keys.create("ada", scope, name="eve")
    desk.keys.revoke("ada", made.key_id)


def test_there_is_one_first_admin_key(desk: Desk) -> None:
    made = desk.keys.first("os:ada")
    assert desk.credentials.principal(made.key).may(ADMIN)
    assert desk.keys.first("os:ada") is None


def test_organisations_keep_their_keys_apart(desk: Desk) -> None:
    place = Organisations(desk.store, desk.clock).add("Acme")
    theirs = Keys(desk.store, Leaves(desk.clock, place.org_id, place.project_id), desk.clock)
    made = theirs.first("os:ada")
    found = desk.credentials.principal(made.key)
    assert (found.org_id, found.project_id) == (place.org_id, place.project_id)
    assert [key.key_id for key in theirs.all()] == [made.key_id]
    assert desk.keys.all() == []
    with pytest.raises(TapPassConfigError, match="no valid key"):
        desk.keys.revoke("mallory", made.key_id)
    with pytest.raises(TapPassConfigError, match="there is an organisation"):
        Organisations(desk.store).add("Acme")


@pytest.mark.parametrize("key", ["", "tp_", "tp_admin_", "tp_" + "x" * 500, "Bearer", "sk-1234", "tp_\udcff", "tp_é"])
def test_what_is_no_key_opens_nothing(desk: Desk, key: str) -> None:
    assert desk.credentials.principal(key) is None


def test_what_is_remembered_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tappass.engine.credentials._REMEMBERED", 2)
    keys = [desk.keys.create("ada", AUDITOR).key for _ in range(3)]
    assert all(desk.credentials.principal(key) for key in keys)
    assert [desk.credentials.remembered(key) is not None for key in keys] == [False, True, True]
