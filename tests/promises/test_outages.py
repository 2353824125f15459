"""No record, no call: what cannot be written keeps tools from running, loses nothing, and mends by itself."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest

from tappass import TapPassConnectionError, tappass_session, tool
from tappass.plane.connect import connect
from tests.conftest import ROOT

FULL = """
    import os, resource, signal
    from tappass import tool, tappass_session, TapPassConnectionError
    from tappass.plane.connect import connect

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    ran = []

    @tool
    def note(text): ran.append(len(text))

    def limited(extra):
        wal = ".tappass/tappass.db-wal"
        most = resource.RLIM_INFINITY if extra is None else os.path.getsize(wal) + extra
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    with tappass_session() as session:
        note("before")
        session.plane.engine.store.flush()
        limited(5_000)
        said = []
        for number in range(5):
            try:
                note("x" * 100_000)
            except TapPassConnectionError as error:
                said.append(str(error))
        try:
            with tappass_session(metadata={"x": "y" * 100_000}): ran.append("session")
        except TapPassConnectionError as error:
            said.append(str(error))
        assert ran == [6], ran
        assert len(said) == 6, said
        for text in said:
            assert "nothing ran" in text and "cannot write the audit record" in text, text
            assert "xxxx" not in text and "yyyy" not in text
        limited(None)
        note("after")
    assert ran == [6, 5], ran
"""


def python(source: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    Path("policy.yaml").write_text("version: 1\n")  # without one, a line on stderr would say so
    command = [sys.executable, "-c", textwrap.dedent(source)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def story(plane):
    plane.engine.store.flush()
    return [(e.type, e.status) for e in plane.engine.store.read.all_events() if e.type.startswith("call")]


def test_a_full_disk_keeps_tools_from_running_and_the_next_call_after_it_goes_through():
    done = python(FULL)
    assert (done.returncode, done.stderr) == (0, "")
    ended = ("call.ended", "completed")
    assert story(connect()) == [("call.decided", ""), ended, ("call.decided", ""), ended]


def test_a_database_that_is_locked_keeps_tools_from_running_until_it_is_free():
    ran = []
    note = tool(name="note")(lambda: ran.append(1))
    with tappass_session() as session:
        note()
        store = session.plane.engine.store
        store.flush()
        store._link.ready().execute("PRAGMA busy_timeout = 50")
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TapPassConnectionError, match=r"nothing ran; another process holds it"):
            note()
        other.execute("ROLLBACK")
        other.close()
        assert ran == [1]
        note()
    assert ran == [1, 1]
    assert [kind for kind, _ in story(session.plane)] == ["call.decided", "call.ended"] * 2


def test_a_database_that_was_taken_away_keeps_tools_from_running_until_it_is_back():
    ran = []
    note = tool(name="note")(lambda: ran.append(1))
    with tappass_session() as session:
        note()
        path = Path(session.plane.engine.store.path)
        session.plane.engine.store.flush()
        path.rename("kept.db")
        for _ in range(2):
            with pytest.raises(TapPassConnectionError, match="removed or replaced"):
                note()
        with pytest.raises(TapPassConnectionError), tappass_session():
            ran.append("session")
        Path("kept.db").rename(path)
        note()
    assert ran == [1, 1]


def test_what_had_run_before_the_disk_failed_is_settled_after_it(monkeypatch):
    """The ending of a call waits in memory while nothing can be written, and is not lost."""
    with tappass_session() as session:
        path = Path(session.plane.engine.store.path)

        @tool
        def saw_off() -> str:
            path.rename("kept.db")
            return "done"

        assert saw_off() == "done", "a result is not held back for its ending"
        with pytest.raises(TapPassConnectionError):
            saw_off()
        Path("kept.db").rename(path)
    assert story(session.plane) == [("call.decided", ""), ("call.ended", "completed")]


@contextmanager
def unwritable():
    """Take this process's leave to write here; root has to become somebody else for that."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
        return
    os.chmod(".", 0o500)
    try:
        yield
    finally:
        os.chmod(".", 0o700)


def test_a_directory_that_cannot_be_written_keeps_tools_from_running_until_it_can():
    ran = []
    note = tool(name="note")(lambda: ran.append(1))
    with unwritable(), pytest.raises(TapPassConnectionError, match="nothing ran"):
        note()
    assert ran == []
    note()
    assert ran == [1]


@pytest.mark.parametrize(
    "obstacle",
    [
        lambda: Path(".tappass").write_text("a file"),
        lambda: Path(".tappass/tappass.db").mkdir(parents=True),
        lambda: (
            Path(".tappass").mkdir(),
            Path(".tappass/tappass.db").write_text("no database at all, only text\n" * 99),
        ),
    ],
    ids=["a file where the directory should be", "a directory where the database should be", "not a database"],
)
def test_a_database_that_cannot_be_opened_keeps_tools_from_running_and_says_why(obstacle):
    obstacle()
    ran = []
    note = tool(name="note")(lambda: ran.append(1))
    for _ in range(2):
        with pytest.raises(TapPassConnectionError, match=r"\.tappass"):
            note()
    assert ran == []
    import shutil

    shutil.rmtree(".tappass") if Path(".tappass").is_dir() else Path(".tappass").unlink()
    note()
    assert ran == [1], "it recovers by itself"


READ_ONLY = """
    import os, sqlite3
    from tappass import tool, tappass_session, TapPassConnectionError
    ran = []

    @tool
    def note(): ran.append(1)

    with tappass_session() as session:
        note()
        link = session.plane.engine.store._link
        link.ready().execute("PRAGMA query_only = 1")
        session.plane.engine.store.later(lambda tx: None)
        for _ in range(3):
            try:
                note()
            except TapPassConnectionError as error:
                assert "nothing ran; it is read-only" in str(error), error
            else:
                break
        # A connection that turned out read-only is opened anew.
        note()
    assert 2 <= len(ran) <= 3, ran
"""


def test_a_database_that_turned_read_only_keeps_tools_from_running_and_recovers():
    done = python(READ_ONLY)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_while_a_tool_runs_is_settled_as_cancelled():
    with tappass_session() as session:

        @tool
        def interrupted() -> None:
            signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            interrupted()
    assert story(session.plane) == [("call.decided", ""), ("call.ended", "cancelled")]
