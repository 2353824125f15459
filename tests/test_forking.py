"""A fork waits for what its child could not go on with, and the child finds everything else free."""

from __future__ import annotations

import ast
import contextlib
import logging
import os
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tappass import ApprovalRequired, PolicyBlockError, forking, tappass_session, tool
from tappass.engine.detect.detector import PatternDetector, anchors
from tappass.engine.detect.detectors import Detectors
from tappass.engine.policy import conditions
from tappass.engine.store.sqlite import SqliteStore
from tappass.forking import Lock, Region
from tappass.plane.connect import connect
from tests.conftest import ROOT
from tests.forks import in_child

WAIT_S = 60
REGIONS = [forking.opening, forking.unforked]


@contextlib.contextmanager
def meanwhile(work: Callable[[], object], threads: int = 1) -> Iterator[None]:
    """Do something again and again on other threads."""
    stop, failed = threading.Event(), []

    def again() -> None:
        try:
            while not stop.is_set():
                work()
        except Exception as error:
            failed.append(error)

    running = [threading.Thread(target=again) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in running:
            thread.join(WAIT_S)
    assert not failed
    assert not any(thread.is_alive() for thread in running)


@contextlib.contextmanager
def held_elsewhere(lock: contextlib.AbstractContextManager[object]) -> Iterator[None]:
    """Have another thread hold a lock."""
    has, may_let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            has.set()
            assert may_let_go.wait(WAIT_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert has.wait(WAIT_S)
    try:
        yield
    finally:
        may_let_go.set()
        thread.join(WAIT_S)


def until_forked(region: Region, work: Callable[[], object]) -> threading.Thread:
    """Start a thread that is in a region, and does something there only once a fork waits for it."""
    inside = threading.Event()

    def run() -> None:
        with region:
            inside.set()
            while not region.closed:
                threading.Event().wait(0.0005)
            work()

    thread = threading.Thread(target=run)
    thread.start()
    assert inside.wait(WAIT_S)
    return thread


def test_a_child_finds_free_what_another_thread_held():
    lock = Lock()

    def child():
        with lock:
            assert lock.mine

    with held_elsewhere(lock):
        in_child(child, timeout_s=20)
        assert not lock.mine


def test_a_child_keeps_what_its_own_thread_held():
    lock = Lock()

    def child():
        assert lock.mine
        lock.__exit__()
        assert not lock.mine

    with lock:
        in_child(child, timeout_s=20)
        assert lock.mine


@pytest.mark.parametrize("region", REGIONS, ids=["opening", "unforked"])
def test_a_fork_waits_for_those_inside(region):
    done = []
    thread = until_forked(region, lambda: done.append(True))

    def child():
        assert done == [True]
        with region:
            assert not region.closed

    in_child(child, timeout_s=20)
    thread.join(WAIT_S)
    assert not region.closed


@pytest.mark.parametrize("region", REGIONS, ids=["opening", "unforked"])
def test_who_is_inside_may_go_deeper_while_a_fork_waits(region):
    def deeper():
        with region:
            pass

    thread = until_forked(region, deeper)
    in_child(lambda: None)
    thread.join(WAIT_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("region", REGIONS, ids=["opening", "unforked"])
def test_who_forks_inside_waits_for_nobody(region):
    def child():
        with region:
            pass

    with region:
        in_child(child, timeout_s=20)


def test_nobody_enters_while_a_fork_goes_on():
    region, entered = Region("a test"), threading.Event()

    def enter() -> None:
        with region:
            entered.set()

    region.close()
    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.05)
    region.open()
    thread.join(WAIT_S)
    assert entered.is_set()


def test_a_fork_goes_on_after_one_step_failed_and_the_parent_too(path, caplog):
    class Failing:
        def before_fork(self):
            raise KeyboardInterrupt

        def after_fork_in_parent(self):
            raise RuntimeError("in the parent")

        def after_fork_in_child(self):
            raise RuntimeError("in the child")

    with SqliteStore(path) as store:
        failing = [Failing(), Failing()]
        for each in failing:
            forking.join(each)
        with caplog.at_level(logging.ERROR, "tappass.store"):
            in_child(lambda: store.run(lambda tx: None))
        failing.clear()
        assert store.run(lambda tx: "goes on") == "goes on"
    assert "a step of a fork failed" in caplog.text


def test_a_fork_in_the_midst_of_a_question_or_a_transaction_hangs_neither_side(path):
    with SqliteStore(path) as store:

        def child():
            assert store.read.heads() == []
            store.run(lambda tx: None)

        with store.read._lock, store._lock:
            in_child(child, timeout_s=20)
            assert store.read._lock.mine
            assert store._lock.mine
        assert not store.read._lock.mine
        assert not store._lock.mine
        in_child(child, timeout_s=20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tappass.db"


def test_no_connection_that_a_thread_opens_reaches_a_child(tmp_path, monkeypatch):
    """SQLite's own lock around memory, or its idea of who has locked the file, would stay as it was for ever."""
    with tappass_session():
        pass
    opened, real = [], sqlite3.connect
    once = threading.Event()

    def connecting(database, *args, **kwargs):
        connection = real(database, *args, **kwargs)
        if threading.current_thread().name == "opener" and not once.is_set():
            once.set()
            # A transaction, so that a copy of the connection would have the file locked; it ends once a fork waits.
            connection.execute("BEGIN IMMEDIATE")
            opened.append(connection)
            while not forking.opening.closed:
                threading.Event().wait(0.0005)
            connection.rollback()
            opened.clear()
        return connection

    monkeypatch.setattr("tappass.plane.followed._agreed", {})
    monkeypatch.setattr(sqlite3, "connect", connecting)
    thread = threading.Thread(target=connect, name="opener")
    thread.start()
    assert once.wait(WAIT_S)

    def child():
        assert opened == []
        with tappass_session():
            pass

    in_child(child)
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_a_child_can_open_planes_while_other_threads_open_theirs(tmp_path):
    numbers = iter(range(1_000_000))

    def opens():
        plane = connect(f"sqlite:///{tmp_path}/{os.getpid()}-{next(numbers)}/tappass.db")
        plane.shutdown()

    opens()
    with meanwhile(opens, threads=2):
        for _ in range(10):
            in_child(opens)


def searches():
    # Many states, made as the text needs them: under a lock of RE2's.
    HEAVY.find("".join(random.choices("ab", k=2000)))


def heavy() -> Detectors:
    source = "(a|b)*a(a|b){14}z"
    made = PatternDetector(
        kind="HEAVY",
        category="pii",
        max_length=3000,
        anchor="[ab]",
        head=source,
        read=lambda view, head: None,
        tail="a",
    )
    detectors = Detectors([])
    detectors._own, detectors._match = [made], anchors([made.anchor]).Match
    return detectors


HEAVY = heavy()


def judges():
    condition = conditions.compiled("args.text.matches('(a|b)*a(a|b){14}z')")
    assert condition.holds(conditions.activation({"args": {"text": "".join(random.choices("ab", k=5000))}})) is False


@pytest.mark.parametrize("work", [searches, judges])
def test_a_child_can_search_while_other_threads_do(work):
    with meanwhile(work, threads=3):
        for _ in range(20):
            in_child(work)


def locks_of(member: forking.Forkable) -> list[Lock]:
    holders = [member, getattr(member, "read", None)]
    return [each for holder in holders if holder for each in vars(holder).values() if isinstance(each, Lock)]


def test_a_child_goes_on_whatever_lock_of_ours_another_thread_holds():
    Path("policy.yaml").write_text(
        "version: 1\nrules:\n"
        "  - {id: never, tool: never, effect: block}\n"
        "  - {id: ask, tool: ask, effect: require_approval}\n"
    )
    never, ask, fine = (tool(name=name)(lambda: None) for name in ("never", "ask", "fine"))
    fine()
    plane = connect()

    def child():
        with tappass_session():
            fine()
            with pytest.raises(PolicyBlockError):
                never()
            with pytest.raises(PolicyBlockError):
                never()
            with pytest.raises(ApprovalRequired) as asked:
                ask()
        assert plane.sync.wait(asked.value.resume_token, 0.01) == "pending"
        tool(name="another")(lambda: None)()

    with contextlib.ExitStack() as stack:
        # A fork waits for a store's: who has one is in its database.
        waited_for = {id(lock) for member in forking._members.values() for lock in locks_of(member)}
        free = [lock for lock in tuple(forking._locks) if id(lock) not in waited_for]
        assert len(free) > 4
        for lock in (*free, plane.engine.voting._changed):
            stack.enter_context(held_elsewhere(lock))
        in_child(child)


PRIMITIVES = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event", "Barrier", "cached_property"}
# Each renews its own in the child, or is renewed by the store that it is of.
RENEWED = {"tappass/forking.py", "tappass/engine/voting.py"} | {
    f"tappass/engine/store/{name}.py" for name in ("group", "notify", "postgres", "postgres_link")
}
# A server's process is its own: nobody's code is in it to fork.
SOURCES = sorted(
    path.relative_to(ROOT) for path in (ROOT / "tappass").rglob("*.py") if "server" not in path.relative_to(ROOT).parts
)


def primitives(source: str) -> set[str]:
    """Return the locks that a module takes from the standard library; `cached_property` has one in Python 3.11."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in ("threading", "_thread", "functools", "multiprocessing"):
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module in ("threading", "_thread", "functools"):
            found |= {alias.name for alias in node.names}
    return found & (PRIMITIVES | {"allocate_lock"})


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_every_lock_is_one_that_a_child_finds_free(source):
    if source.as_posix() not in RENEWED:
        assert not primitives((ROOT / source).read_text())


FOREIGN = [
    "import threading\nx = threading.RLock()",
    "from functools import cached_property",
    "from threading import Lock",
]


@pytest.mark.parametrize("source", FOREIGN)
def test_a_lock_that_nobody_renews_is_found(source):
    assert primitives(source)
