"""What an outsider with an export and the public key can tell; each attack is a test."""

from __future__ import annotations

import base64
import io
import json
import shutil

import msgspec
import pytest

from tappass.engine.audit.checkpoint import Checkpoint, Checkpointer, origin, sign
from tappass.engine.audit.export import export
from tappass.engine.audit.keys import log_key
from tappass.engine.audit.merkle import leaf_hash, push, root
from tappass.engine.audit.verify import verify
from tappass.engine.store.sqlite import SqliteStore
from tappass.errors import TapPassConfigError
from tappass.wire.codec import canonical
from tests.engine.audit.conftest import write_calls
from tests.engine.store.events import decide, ending, task


def check(lines, key, **options):
    return verify(io.BytesIO(b"".join(line + b"\n" for line in lines)), key, **options)


def place(lines, seq):
    """Return where the leaf with that number stands."""
    return next(at for at, line in enumerate(lines) if line[:3] != b'{"_' and json.loads(line)["seq"] == seq)


def forged(lines, key_for_signing):
    """Return an export with every hash, and every checkpoint, made again by whoever holds that key."""
    header = json.loads(lines[0])["_export"]
    leaves = [line for line in lines if line[:3] != b'{"_']
    frontier = b""
    for size, leaf in enumerate(leaves):
        frontier = push(size, frontier, leaf_hash(leaf))
    note = sign(Checkpoint(origin=origin(header["log_id"]), size=len(leaves), root=root(frontier)), key_for_signing)
    header["size"] = len(leaves)
    return [canonical({"_export": header}), *leaves, canonical({"_checkpoint": note})]


def test_an_untouched_export_verifies_and_says_that_its_tail_is_not_provable(audited):
    exported = audited.export()
    report = verify(exported.path, exported.key)
    assert report.ok, report.lines()
    assert (report.events, report.signed_to, report.witnessed_to, report.first_bad_seq) == (40, 40, None, None)
    assert not report.tail_provable
    assert report.lines()[1].startswith("tail not provable")


def test_with_the_newest_checkpoint_from_elsewhere_the_tail_is_proven(audited):
    exported = audited.export(checkpointer=audited.signer)
    report = verify(exported.path, exported.key, checkpoints=[audited.witness])
    assert report.ok, report.lines()
    assert report.tail_provable
    assert len(report.lines()) == 1


def test_an_older_checkpoint_from_elsewhere_says_how_far_it_reaches(audited):
    exported = audited.export()
    report = verify(exported.path, exported.key, checkpoints=[audited.witness])
    assert report.ok
    assert (report.witnessed_to, report.tail_provable) == (20, False)
    assert "covers 20 events" in report.lines()[1]


@pytest.mark.parametrize("seq", [0, 7, 19, 20, 39])
def test_an_edited_byte_is_caught_and_named(audited, seq):
    exported = audited.export()
    at = place(exported.lines, seq)
    exported.lines[at] = exported.lines[at].replace(b'"name":"pay"', b'"name":"pax"')
    assert check(exported.lines, exported.key).first_bad_seq == seq


def test_every_edited_byte_is_caught(audited):
    exported = audited.export()
    at = place(exported.lines, 11)
    original = exported.lines[at]
    for position in range(len(original)):
        edited = bytearray(original)
        edited[position] ^= 1
        exported.lines[at] = bytes(edited)
        report = check(exported.lines, exported.key)
        assert not report.ok, edited


def test_an_edit_that_also_mends_the_hashes_is_caught_by_the_next_checkpoint(audited):
    exported = audited.export()
    at = place(exported.lines, 25)
    exported.lines[at] = exported.lines[at].replace(b'"name":"pay"', b'"name":"pax"')
    lines = [line for line in exported.lines if not line.startswith(b'{"_hashes"')]
    report = check(lines, exported.key)
    assert (report.problems[0].seq, report.problems[0].last_seq) == (20, 39)


def test_an_edit_in_the_database_is_caught_and_named(audited):
    audited.store.run(
        lambda tx: tx.execute("UPDATE leaf SET bytes = replace(bytes, '\"pay\"', '\"pax\"') WHERE seq = 13")
    )
    audited.store.run(lambda tx: tx.execute("UPDATE leaf SET bytes = CAST(bytes AS BLOB) WHERE seq = 13"))
    exported = audited.export()
    assert verify(exported.path, exported.key).first_bad_seq == 13


@pytest.mark.parametrize("seq", [0, 8, 39])
def test_a_gap_is_caught_and_named(audited, seq):
    exported = audited.export()
    del exported.lines[place(exported.lines, seq)]
    assert check(exported.lines, exported.key).first_bad_seq == seq


def test_a_changed_order_is_caught_and_named(audited):
    exported = audited.export()
    first, second = place(exported.lines, 4), place(exported.lines, 5)
    exported.lines[first], exported.lines[second] = exported.lines[second], exported.lines[first]
    assert check(exported.lines, exported.key).first_bad_seq == 4


def test_a_leaf_that_stands_twice_is_caught_and_named(audited):
    exported = audited.export()
    at = place(exported.lines, 6)
    exported.lines.insert(at, exported.lines[at])
    assert check(exported.lines, exported.key).first_bad_seq in (6, 7)


def test_an_ending_without_a_decision_is_caught_even_if_the_writer_signed_it(audited):
    audited.store.run(ending("tsk_never_decided"))
    exported = audited.export()
    report = verify(exported.path, exported.key)
    assert report.first_bad_seq == 40
    assert "tsk_never_decided" in report.lines()[0]


def test_an_ending_of_a_refused_call_is_caught(audited):
    name = task()
    decide(audited.store, name, outcome="block")
    audited.store.run(ending(name))
    exported = audited.export()
    assert verify(exported.path, exported.key).first_bad_seq == 41


def test_open_decisions_are_listed_by_session(audited):
    decide(audited.store, "tsk_lost", session_id="ses_killed")
    exported = audited.export()
    report = verify(exported.path, exported.key)
    assert report.ok
    assert {session: [(o.seq, o.task_id) for o in calls] for session, calls in report.open.items()} == {
        "ses_killed": [(40, "tsk_lost")]
    }
    assert "1 calls were allowed and have no ending" in report.lines()[-1]


def test_bytes_that_mean_the_same_but_are_not_canonical_are_caught(audited):
    exported = audited.export()
    at = place(exported.lines, 3)
    exported.lines[at] = json.dumps(json.loads(exported.lines[at])).encode()
    report = check(exported.lines, exported.key)
    assert report.first_bad_seq == 3
    assert any("not canonical" in problem.what for problem in report.problems)


def test_a_leaf_with_members_of_a_later_version_is_canonical_still(audited):
    exported = audited.export()
    lines = [*exported.lines]
    at = place(lines, 39)
    lines[at] = canonical({**json.loads(lines[at]), "zz_later": "x"})
    assert check(forged(lines, audited.key), exported.key).ok


@pytest.mark.parametrize(
    "junk", [b"", b"[]", b"{", b"\xff\xfe", b'{"seq":1}', b"[" * 5000, b'{"_checkpoint":1}', b'{"_x']
)
def test_lines_that_are_no_leaves_are_caught(audited, junk):
    exported = audited.export()
    exported.lines.insert(place(exported.lines, 9), junk)
    report = check(exported.lines, exported.key)
    assert report.first_bad_seq == 9


def test_content_that_is_not_what_was_recorded_is_caught(audited):
    exported = audited.export(content=True)
    assert verify(exported.path, exported.key).ok
    at = next(n for n, line in enumerate(exported.lines) if line.startswith(b'{"_content"'))
    said = json.loads(exported.lines[at])["_content"]
    assert base64.b64decode(said["body"]) == b"content 0"
    said["body"] = base64.b64encode(b"content 1").decode()
    exported.lines[at] = canonical({"_content": said})
    report = check(exported.lines, exported.key)
    assert (report.first_bad_seq, report.problems[0].what) == (said["seq"], "its content is not what was recorded")


def test_content_moved_to_another_event_is_caught(audited):
    exported = audited.export(content=True)
    at = next(n for n, line in enumerate(exported.lines) if line.startswith(b'{"_content"'))
    exported.lines.append(exported.lines[at])
    assert not check(exported.lines, exported.key).ok


def test_erased_content_leaves_the_log_verifiable(audited):
    assert audited.store.erase_content([0, 1, 2, 3]) == 2
    exported = audited.export(content=True)
    assert verify(exported.path, exported.key).ok
    assert audited.store.read.content(0) is None
    assert audited.store.read.content(4) is not None or audited.store.read.content(5) is not None


def test_another_key_is_caught(audited, tmp_path):
    exported = audited.export()
    other = log_key(tmp_path / "other").public(origin(exported.header.log_id))
    report = verify(exported.path, str(other))
    assert not report.ok
    assert "not signed by the key given" in report.lines()[0]


def test_the_key_of_another_log_is_caught(audited):
    exported = audited.export()
    assert not verify(exported.path, audited.key.public(origin("log_other"))).ok


def test_an_export_stripped_of_its_checkpoints_is_not_verified(audited):
    exported = audited.export()
    lines = [line for line in exported.lines if not line.startswith(b'{"_checkpoint"')]
    assert "no checkpoint" in check(lines, exported.key).lines()[0]


def test_a_cut_tail_with_its_checkpoints_needs_one_from_elsewhere_to_be_caught(audited):
    audited.signer.write_all()
    exported = audited.export(checkpointer=audited.signer)
    cut = exported.lines[: place(exported.lines, 20)]
    header = json.loads(cut[0])["_export"]
    cut[0] = canonical({"_export": {**header, "size": 20}})
    unaided = check(cut, exported.key)
    assert unaided.ok
    assert not unaided.tail_provable
    aided = check(cut, exported.key, checkpoints=[audited.witness])
    assert (aided.problems[0].seq, aided.problems[0].last_seq) == (20, 39)
    assert "cut off" in aided.lines()[0]


def test_a_cut_that_leaves_the_first_line_is_caught_without_help(audited):
    exported = audited.export()
    assert check(exported.lines[: place(exported.lines, 20)], exported.key).first_bad_seq == 20


def test_a_key_holders_rewrite_needs_a_checkpoint_from_elsewhere_to_be_caught(audited):
    exported = audited.export(checkpointer=audited.signer)
    at = place(exported.lines, 12)
    exported.lines[at] = exported.lines[at].replace(b'"name":"pay"', b'"name":"pax"')
    rewritten = forged(exported.lines, audited.key)
    assert check(rewritten, exported.key).ok
    aided = check(rewritten, exported.key, checkpoints=[audited.witness])
    assert (aided.problems[0].seq, aided.problems[0].last_seq) == (0, 19)
    assert "a fork, or a rewrite" in aided.lines()[0]


def test_a_fork_is_caught_by_a_checkpoint_from_the_other_branch(audited, tmp_path):
    audited.store.sync()
    shutil.copyfile(audited.store.path, tmp_path / "copy.db")
    with SqliteStore(tmp_path / "copy.db") as copy:
        write_calls(copy, 3)
        branch = io.BytesIO()
        export(copy, branch, audited.key)
    write_calls(audited.store, 3)
    seen = tmp_path / "seen"
    Checkpointer(audited.store, audited.key, witness=seen).write_all()
    key = audited.export().key
    branch.seek(0)
    assert verify(branch, key).ok
    branch.seek(0)
    report = verify(branch, key, checkpoints=[seen])
    assert "a fork, or a rewrite" in report.lines()[0]


def test_a_second_log_in_one_export_is_caught(audited):
    exported = audited.export()
    assert not check([*exported.lines, *exported.lines], exported.key).ok
    assert check(exported.lines[1:], exported.key).first_bad_seq == 0


def test_problems_are_named_in_order_and_bounded(audited):
    exported = audited.export()
    lines = [line.replace(b'"v":1', b'"v":9') for line in exported.lines]
    report = check(lines, exported.key)
    assert len(report.problems) == 20
    assert report.first_bad_seq == 0


def test_an_export_of_another_format_asks_for_an_update(audited):
    exported = audited.export()
    exported.lines[0] = exported.lines[0].replace(b'"format":1', b'"format":2')
    with pytest.raises(TapPassConfigError, match="update"):
        check(exported.lines, exported.key)


def test_files_that_cannot_be_used_are_said(audited, tmp_path):
    exported = audited.export()
    with pytest.raises(TapPassConfigError, match="cannot read the export"):
        verify(tmp_path / "missing", exported.key)
    (tmp_path / "note").write_text("nothing signed")
    with pytest.raises(TapPassConfigError, match="cannot use the checkpoint"):
        verify(exported.path, exported.key, checkpoints=[tmp_path / "note"])
    with pytest.raises(TapPassConfigError, match="not a public key"):
        verify(exported.path, "tappass-x+00000000+AQ==")


def test_a_log_of_more_than_one_block_of_hashes_verifies(tmp_path):
    key = log_key(tmp_path)
    with SqliteStore(":memory:") as store:
        signer = Checkpointer(store, key)
        for size in (100, 28, 400):
            write_calls(store, size)
            signer.write_all()
        out = io.BytesIO()
        steps = []
        header = export(store, out, key, content=True, progress=steps.append)
    assert steps
    read = []
    report = verify(io.BytesIO(out.getvalue()), header.key, progress=read.append)
    assert report.ok, report.lines()
    assert (report.events, read[-1]) == (1056, len(out.getvalue()))
    lines = out.getvalue().splitlines()
    at = place(lines, 777)
    lines[at] = lines[at].replace(b'"pay"', b'"pax"')
    assert check(lines, header.key).first_bad_seq == 777


def test_an_organisation_without_a_log_cannot_be_exported(tmp_path):
    with SqliteStore(":memory:") as store, pytest.raises(TapPassConfigError, match="no log"):
        export(store, io.BytesIO(), log_key(tmp_path))


def test_a_report_can_be_encoded_for_machines(audited):
    exported = audited.export()
    assert msgspec.json.decode(msgspec.json.encode(verify(exported.path, exported.key)))["events"] == 40
