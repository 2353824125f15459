"""What is asked ahead of its turn answers as if it were asked in turn, whatever others wrote meanwhile."""

from __future__ import annotations

import pytest

from tappass.engine import endings, replaying, sessions
from tappass.engine.store.ahead import Ahead, shape

ASK = ("SELECT status FROM session WHERE session_id = ? AND org_id = ?", ("ses_1", "org"))


class Rows:
    def __init__(self, *rows):
        self.rows, self.asked = list(rows), 0

    def fetchall(self):
        self.asked += 1
        return self.rows


@pytest.fixture
def ahead():
    made = Ahead()
    assert made.wants(ASK)
    made.keep(ASK, Rows(("open",)))
    assert not made.wants(ASK)
    return made


def test_an_answer_is_given_to_everybody_who_asks(ahead):
    assert [ahead.answer(*ASK).fetchone(), ahead.answer(*ASK).fetchall()] == [("open",), [("open",)]]
    assert ahead.answer(ASK[0], ["ses_1", "org"]).fetchone() == ("open",)
    assert ahead.answer(ASK[0], ("ses_2", "org")) is None
    assert ahead.answer("SELECT 1", ()) is None


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("UPDATE session SET status = ? WHERE session_id = ?", ("closed", "ses_1")),
        ("UPDATE session SET status = ? WHERE org_id = ?", ("closed", "org")),
        ("UPDATE session SET status = 'closed'", ()),
        ("UPDATE session SET session_id = ? WHERE session_id = ?", ("ses_1", "ses_2")),
        ("DELETE FROM session WHERE session_id = ? OR org_id = ?", ("ses_2", "other")),
        ("DELETE FROM session WHERE session_id IN (SELECT parent FROM session WHERE org_id = ?)", ("other",)),
        ("INSERT INTO session (session_id, org_id) VALUES (?, ?)", ("ses_1", "org")),
        (
            "INSERT INTO session (session_id, org_id) VALUES (?, ?) ON CONFLICT (org_id) DO UPDATE SET x = 1",
            ("2", "org"),
        ),
        ("INSERT INTO session (session_id) SELECT parent FROM session", ()),
        ("TRUNCATE latch", ()),
    ],
)
def test_what_may_bear_on_an_answer_ends_it(ahead, sql, params):
    ahead.written(sql, params)
    assert ahead.answer(*ASK) is None
    assert ahead.wants(ASK)


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("UPDATE session SET status = ?, name = '' WHERE session_id = ?", ("closed", "ses_2")),
        ("UPDATE session SET status = ? WHERE parent = ? AND org_id = ?", ("closed", "ses_1", "other")),
        ("DELETE FROM session WHERE org_id = ? AND session_id = ?", ("org", "ses_2")),
        ("INSERT INTO session (session_id, mode, org_id) VALUES (?, 'x', ?) ON CONFLICT DO NOTHING", ("ses_2", "org")),
        ("INSERT INTO running_call (session_id, org_id) VALUES (?, ?)", ("ses_1", "org")),
    ],
)
def test_what_is_about_other_rows_does_not(ahead, sql, params):
    ahead.written(sql, params)
    assert ahead.answer(*ASK).fetchone() == ("open",)


def test_what_cannot_be_kept_is_not_asked():
    assert not Ahead().wants(("SELECT a.x FROM a JOIN b ON a.x = b.x WHERE a.y = ?", (1,)))
    assert not Ahead().wants(("SELECT x FROM a WHERE y = ? OR z = ?", (1, 2)))


def test_the_engines_own_questions_and_writes_can_be_told_apart():
    statements = [endings._RUNS, endings._ENDED, endings._BEGAN, replaying._ONE, replaying._KEEP, sessions._STANDS]
    assert [shape(each).table for each in statements] == [*["running_call"] * 3, *["idempotency"] * 2, "session"]
    assert shape(replaying._KEEP).columns == {"org_id": 0, "key": 1}
