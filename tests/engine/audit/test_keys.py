from __future__ import annotations

import base64
import hashlib
import os
import stat
import subprocess
import sys
import textwrap
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tappass.engine.audit.checkpoint import Checkpoint, Checkpointer, CheckpointError, notes, parse, sign
from tappass.engine.audit.keys import PublicKey, equality_key, log_key
from tappass.engine.store.sqlite import SqliteStore
from tappass.errors import TapPassConfigError, TapPassConnectionError
from tests.engine.store.events import decide, task

ROOT = hashlib.sha256(b"").digest()


def test_keys_are_made_once_readable_by_their_owner_alone(tmp_path):
    directory = tmp_path / ".tappass"
    key, secret = log_key(directory), equality_key(directory)
    assert log_key(directory).sign(b"x") == key.sign(b"x")
    assert equality_key(directory) == secret
    assert len(secret) == 32
    assert {each.name: stat.S_IMODE(each.stat().st_mode) for each in directory.iterdir()} == {
        "log.key": 0o600,
        "equality.key": 0o600,
    }
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_log_key_is_an_ordinary_pem_file(tmp_path):
    key = log_key(tmp_path)
    loaded = load_pem_private_key((tmp_path / "log.key").read_bytes(), None)
    assert isinstance(loaded, Ed25519PrivateKey)
    assert loaded.sign(b"x") == key.sign(b"x")


def test_processes_that_start_together_agree_on_one_key(tmp_path):
    source = """
        import sys
        from tappass.engine.audit.keys import equality_key
        print(equality_key(sys.argv[1]).hex())
    """
    command = [sys.executable, "-c", textwrap.dedent(source), str(tmp_path / "new")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    assert len({each.communicate(timeout=60)[0] for each in processes}) == 1


def test_a_key_never_shows_in_a_representation(tmp_path):
    key = log_key(tmp_path)
    assert repr(key) == "LogKey(...)"


def test_a_key_others_may_read_is_refused(tmp_path):
    log_key(tmp_path)
    os.chmod(tmp_path / "log.key", 0o644)
    with pytest.raises(TapPassConfigError, match="read by other users"):
        log_key(tmp_path)


def test_a_damaged_key_is_refused_without_showing_it(tmp_path):
    for name, load in (("log.key", log_key), ("equality.key", equality_key)):
        (tmp_path / name).write_text("damaged secret")
        os.chmod(tmp_path / name, 0o600)
        with pytest.raises(TapPassConfigError, match="does not hold") as caught:
            load(tmp_path)
        assert "secret" not in str(caught.value)


def test_a_key_that_cannot_be_kept_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TapPassConnectionError, match="cannot keep a key"):
        log_key(tmp_path / "file")


def test_a_public_key_reads_as_it_is_written(tmp_path):
    public = log_key(tmp_path).public("tappass-log_1")
    again = PublicKey.parse(str(public))
    assert (again.name, again.key_id, str(again)) == (public.name, public.key_id, str(public))


# The example key of the C2SP signed-note specification's reference implementation (golang.org/x/mod/sumdb/note).
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="


def test_the_key_id_and_the_signature_are_those_of_the_signed_note_specification():
    key = PublicKey.parse(PETER)
    raw = base64.b64decode(SIGNATURE)
    assert raw[:4] == key.key_id
    assert key.verify(NOTE.encode(), raw[4:])
    assert not key.verify(NOTE.encode() + b" ", raw[4:])


def test_a_checkpoint_is_a_signed_note(tmp_path):
    key = log_key(tmp_path)
    note = sign(Checkpoint(origin="tappass-log_1", size=42, root=ROOT), key)
    lines = note.split("\n")
    assert lines[:4] == ["tappass-log_1", "42", base64.b64encode(ROOT).decode(), ""]
    assert lines[4].startswith("\u2014 tappass-log_1 ")
    assert parse(note, key.public("tappass-log_1")) == Checkpoint(origin="tappass-log_1", size=42, root=ROOT)


def test_signatures_by_others_are_passed_over(tmp_path):
    key = log_key(tmp_path)
    note = sign(Checkpoint(origin="tappass-log_1", size=42, root=ROOT), key)
    body, _, own = note.partition("\n\n")
    cosigned = f"{body}\n\n\u2014 witness.example AAAA\n\u2014 tappass-log_1 !!\n{own}"
    assert parse(cosigned, key.public("tappass-log_1")).size == 42


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda note: note.replace("\n42\n", "\n43\n"), "not signed"),
        (lambda note: note.replace("\n42\n", "\n042\n"), "not a signed checkpoint"),
        (lambda note: note.replace("\n42\n", "\nmany\n"), "not a signed checkpoint"),
        (lambda note: note.replace("log_1", "log_2"), "of tappass-log_2"),
        (lambda note: note.split("\n\n")[0], "not a signed checkpoint"),
        (lambda note: "", "not a signed checkpoint"),
    ],
)
def test_a_changed_checkpoint_is_refused(tmp_path, change, what):
    key = log_key(tmp_path)
    note = sign(Checkpoint(origin="tappass-log_1", size=42, root=ROOT), key)
    with pytest.raises(CheckpointError, match=what):
        parse(change(note), key.public("tappass-log_1"))


def test_a_store_signs_where_it_stands_when_it_closes_and_the_witness_hears_it(tmp_path):
    key = log_key(tmp_path)
    store = SqliteStore(tmp_path / "tappass.db")
    Checkpointer(store, key, witness=tmp_path / "witness").attach()
    for _ in range(3):
        decide(store, task())
    head = store.read.head()
    store.close()
    (note,) = notes((tmp_path / "witness").read_text())
    assert parse(note, key.public(f"tappass-{head.log_id}")).size == 3
    with SqliteStore(tmp_path / "tappass.db") as again:
        assert again.read.checkpoints() == [note]


def test_a_log_that_has_not_grown_is_not_signed_again(tmp_path):
    with SqliteStore(":memory:") as store:
        signer = Checkpointer(store, log_key(tmp_path), witness=tmp_path / "witness")
        decide(store, task())
        signer.write_all()
        signer.write_all()
        decide(store, task())
        signer.write_all()
    assert len(list(notes((tmp_path / "witness").read_text()))) == 2


def test_checkpoints_follow_a_schedule(tmp_path):
    with SqliteStore(tmp_path / "tappass.db") as store:
        Checkpointer(store, log_key(tmp_path)).attach(every_s=0.01)
        decide(store, task())
        deadline = time.monotonic() + 10
        while not store.read.checkpoints() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(store.read.checkpoints()) == 1


def test_a_witness_that_cannot_be_written_is_said_and_heard_later(tmp_path):
    with SqliteStore(":memory:") as store:
        signer = Checkpointer(store, log_key(tmp_path), witness=tmp_path / "missing" / "witness")
        decide(store, task())
        with pytest.raises(TapPassConnectionError, match="witness"):
            signer.write_all()
        (tmp_path / "missing").mkdir()
        signer.write_all()
    assert (tmp_path / "missing" / "witness").exists()
