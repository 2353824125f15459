"""A request that goes through five processes is one session, and whichever of them dies, nothing runs unrecorded."""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from tests.adapters.five_processes.chain import ROLES, Answer, Chain, Log, Ran, chain

KILLS = int(os.environ.get("TAPPASS_FIVE_KILLS", "20"))
PATIENCE_S = 60.0
SEED = int(os.environ.get("TAPPASS_SEED", "7"))
HOPS = ["take", "bill", "charge", "post", "settle"]

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with chain(tmp_path_factory.mktemp("five")) as made:
        yield made


def of_order(ran: list[Ran], order: str) -> list[Ran]:
    return [each for each in ran if each.given["order"] == order]


def check(log: Log, ran: list[Ran]) -> None:
    """Check that each call that ran has a decision of its own on record: to let it run, with what it was given."""
    for each in ran:
        decided = log.decided.get(each.task_id)
        assert decided is not None, f"{each} ran, and nothing is on record"
        assert (decided.name, decided.outcome, decided.session_id) == (each.hop, "allow", each.session_id)
        assert log.contents[decided.seq]["arguments"] == each.given
    assert len({each.task_id for each in ran}) == len(ran), "a decision let two calls run"
    assert set(log.ended) <= set(log.decided)


def whole(log: Log, ran: list[Ran]) -> bool:
    """Tell whether each hop of an order has run to its end, on record."""
    ended = [each.hop for each in ran if each.task_id in log.ended and log.ended[each.task_id].status == "completed"]
    # An activity whose worker died before it could say so runs again, by a decision of its own.
    return set(ended) == set(HOPS)


def test_every_hop_is_decided_beneath_one_root_session_in_one_log_that_verifies(five: Chain) -> None:
    answer = five.order("first", 5)
    assert (answer.status, answer.text) == (200, '"first: 5 settled"')
    ran = of_order(five.ran(), "first")
    assert [each.hop for each in ran] == HOPS
    assert all(each.given == {"order": "first", "amount": 5} for each in ran)
    log = five.log()
    check(log, ran)
    assert [opened.kind for opened in log.line(ran[-1].session_id)] == [
        "workflow", "joined", "mcp", "joined", "graph", "joined", "request",
    ]  # fmt: skip
    # The tool of the MCP server is decided where it is called and where it runs, the model each time it is asked.
    beneath = [event for event in log.decided.values() if log.root(event.session_id) == answer.session_id]
    assert sorted(event.name for event in beneath) == sorted([*HOPS, "post", "scripted-1", "scripted-1"])
    agents = {each.hop: log.decided[each.task_id].agent_uuid for each in ran}
    assert len(set(agents.values())) == len(set(ROLES.values()))
    assert agents["post"] == agents["settle"]


def test_what_is_refused_at_the_far_end_does_not_run_and_the_refusal_is_beneath_the_same_root(five: Chain) -> None:
    answer = five.order("too much", 5000)
    assert answer.status == 500
    assert [each.hop for each in of_order(five.ran(), "too much")] == HOPS[:-1]
    log = five.log()
    (blocked,) = [event for event in log.decided.values() if event.outcome == "block"]
    assert (blocked.name, blocked.rules) == ("settle", ("too-much",))
    assert log.contents[blocked.seq]["arguments"] == {"order": "too much", "amount": 5000}
    assert log.root(blocked.session_id) == answer.session_id


def test_whichever_of_the_five_is_killed_nothing_runs_unrecorded_and_the_log_verifies(five: Chain) -> None:
    chance = random.Random(SEED)
    usual_s = statistics.median(five.order(f"warm {n}", 5).took_s for n in range(3))
    print(f"{KILLS} kills, TAPPASS_SEED={SEED}, an order takes {usual_s:.2f} s")
    victims = [role for _ in range(KILLS // len(ROLES) + 1) for role in chance.sample(list(ROLES), len(ROLES))][:KILLS]
    answers = {}
    for n, victim in enumerate(victims):
        order = f"round {n}"
        moment_s = chance.random() * usual_s
        answers[order] = answer = with_a_kill(five, order, victim, moment_s)
        hops = [each.hop for each in of_order(five.ran(), order)]
        print(f"{order}: {victim} killed after {moment_s:.3f} s, {answer.status} in {answer.took_s:.2f} s: {hops}")
    last = five.order("last", 5)
    assert (last.status, last.text) == (200, '"last: 5 settled"')
    done = ["last", *(order for order, answer in answers.items() if answer.status == 200)]
    ran, log = settled(five, done)
    check(log, ran)
    for order in [*answers, "last"]:
        assert len({log.root(each.session_id) for each in of_order(ran, order)}) <= 1
    broken = [order for order, answer in answers.items() if answer.status != 200]
    cut_short = [order for order in broken if of_order(ran, order)]
    print(f"{len(broken)} orders broke, {len(cut_short)} of them after something had run; {len(log.events)} events")
    assert cut_short, "the kills came too early or too late to show anything"


def settled(five: Chain, orders: list[str]) -> tuple[list[Ran], Log]:
    """Return what ran and what is on record, once the endings of these orders have arrived, which may take a while."""
    until = time.monotonic() + PATIENCE_S
    while True:
        # In this order: what is on disk by now was decided before.
        ran = five.ran()
        log = five.log()
        missing = [order for order in orders if not whole(log, of_order(ran, order))]
        if not missing:
            return ran, log
        assert time.monotonic() < until, f"the endings of {missing} are lost"
        time.sleep(0.2)


def with_a_kill(five: Chain, order: str, victim: str, moment_s: float) -> Answer:
    """Send an order, kill one of the five at that moment, start it again; return what came of the order."""
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(five.order(order, 5)))
    asking.start()
    time.sleep(moment_s)  # the moment is what this is about
    five.five[victim].kill()
    five.five[victim].start()
    five.five[victim].wait()
    asking.join()
    return answers[0]
