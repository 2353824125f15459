"""The approver's key: made once, kept outside of the project, known to the database by its digest alone."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tappass.engine.approver import VARIABLE, Approvers, identity
from tappass.engine.credentials import APPROVER, PREFIXES
from tappass.engine.leaves import Leaves
from tappass.engine.store.sqlite import SqliteStore
from tappass.errors import TapPassConfigError
from tappass.wire.ids import SYSTEM_CLOCK

PREFIX = PREFIXES[APPROVER]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "tappass.db") as opened:
        opened.run(lambda tx: tx.append(Leaves(SYSTEM_CLOCK).event("policy.accepted")))
        yield opened


@pytest.fixture
def approvers(store: SqliteStore) -> Approvers:
    return Approvers(store, Leaves(SYSTEM_CLOCK))


def events(store: SqliteStore) -> list[tuple[str, str]]:
    return [(event.type, event.actor) for event in store.read.events()][1:]


def test_a_key_is_made_outside_of_the_project_and_only_its_owner_reads_it(approvers: Approvers, tmp_path: Path) -> None:
    made = approvers.make()
    assert made.fresh
    assert made.path.is_relative_to(os.environ["XDG_CONFIG_HOME"])
    assert not made.path.is_relative_to(Path.cwd())
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.path.parent.stat().st_mode) == 0o700
    key = made.path.read_text().strip()
    assert key.startswith(PREFIX)
    assert len(key) == len(PREFIX) + 43


def test_the_database_never_holds_the_key(approvers: Approvers, store: SqliteStore, tmp_path: Path) -> None:
    key = approvers.make().path.read_text().strip()
    store.sync()
    for file in tmp_path.glob("tappass.db*"):
        assert key.removeprefix(PREFIX).encode() not in file.read_bytes()


def test_the_file_is_who_accepts_and_so_is_the_variable(approvers: Approvers, monkeypatch: pytest.MonkeyPatch) -> None:
    made = approvers.make()
    by_file = approvers.present()
    assert by_file.name == identity() == made.name
    monkeypatch.setenv(VARIABLE, f"  {made.path.read_text()}")
    made.path.unlink()
    assert approvers.present() == by_file


def test_making_it_again_changes_nothing(approvers: Approvers, store: SqliteStore) -> None:
    first = approvers.make()
    key = first.path.read_text()
    again = approvers.make()
    assert not again.fresh
    assert again.path.read_text() == key
    assert events(store) == [("key.created", identity())]


def test_a_new_key_revokes_the_old_one_and_the_log_says_both(approvers: Approvers, store: SqliteStore) -> None:
    old = approvers.make().path.read_text().strip()
    new = approvers.make(anew=True)
    assert new.fresh
    with pytest.raises(TapPassConfigError, match="not a valid approver key"):
        approvers.verify(old)
    assert approvers.verify(new.path.read_text().strip()).name == identity()
    assert events(store) == [("key.created", identity()), ("key.revoked", identity()), ("key.created", identity())]


@pytest.mark.parametrize("wrong", ["", PREFIX, f"{PREFIX}{'A' * 43}", "tp_agent_x", "\x00", "ключ"])
def test_a_wrong_key_is_refused_and_not_repeated(approvers: Approvers, wrong: str) -> None:
    approvers.make()
    with pytest.raises(TapPassConfigError) as caught:
        approvers.verify(wrong)
    assert "A" * 43 not in str(caught.value)


def test_a_wrong_key_in_the_variable_is_not_made_good_by_the_file(
    approvers: Approvers, monkeypatch: pytest.MonkeyPatch
) -> None:
    approvers.make()
    monkeypatch.setenv(VARIABLE, f"{PREFIX}wrong")
    with pytest.raises(TapPassConfigError, match=VARIABLE):
        approvers.present()


def test_another_database_s_key_is_not_valid_here(approvers: Approvers, tmp_path: Path) -> None:
    approvers.make()
    with SqliteStore(tmp_path / "other.db") as other:
        other.run(lambda tx: tx.append(Leaves(SYSTEM_CLOCK).event("policy.accepted")))
        others = Approvers(other, Leaves(SYSTEM_CLOCK))
        key = others.make().path.read_text().strip()
        assert others.file() != approvers.file()
    with pytest.raises(TapPassConfigError):
        approvers.verify(key)


def test_a_lost_file_is_no_reason_to_make_another_key_unasked(approvers: Approvers) -> None:
    approvers.make().path.unlink()
    with pytest.raises(TapPassConfigError, match="--new-approver-key"):
        approvers.make()
    with pytest.raises(TapPassConfigError, match=VARIABLE):
        approvers.present()


def test_a_planted_file_does_not_become_a_key(approvers: Approvers) -> None:
    path = approvers.make().path
    path.write_text(f"{PREFIX}planted\n")
    with pytest.raises(TapPassConfigError, match="not a valid approver key"):
        approvers.make()


def test_a_key_that_others_may_read_is_refused(approvers: Approvers) -> None:
    approvers.make().path.chmod(0o644)
    with pytest.raises(TapPassConfigError, match="chmod 600"):
        approvers.present()


def test_a_key_file_without_its_row_is_made_good(approvers: Approvers, store: SqliteStore) -> None:
    made = approvers.make()
    store.run(lambda tx: tx.execute("DELETE FROM api_key"))
    assert not approvers.make().fresh
    assert approvers.present().name == made.name


def test_threads_that_make_it_at_once_make_one(approvers: Approvers, store: SqliteStore) -> None:
    threads = [threading.Thread(target=approvers.make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert approvers.present().name == identity()
    assert events(store) == [("key.created", identity())]


def test_an_expired_key_and_an_inactive_person_are_refused(approvers: Approvers, store: SqliteStore) -> None:
    approvers.make()
    store.run(lambda tx: tx.execute("UPDATE person SET active = 0"))
    with pytest.raises(TapPassConfigError):
        approvers.present()
    store.run(lambda tx: tx.execute("UPDATE person SET active = 1"))
    assert approvers.present()
    store.run(lambda tx: tx.execute("UPDATE api_key SET expires_at = '2020-01-01T00:00:00.000000Z'"))
    with pytest.raises(TapPassConfigError):
        approvers.present()
