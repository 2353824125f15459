"""What a policy costs: microseconds to evaluate by number of rules and kind of call, milliseconds to load.

python tests/bench/bench_policy.py
"""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable
from typing import Any

from tappass.engine.policy.conditions import compiled
from tappass.engine.policy.facts import Facts
from tappass.engine.policy.files import PolicySources
from tappass.engine.policy.policy import Policy
from tappass.wire.findings import Finding

READS = {"id": "big", "tool": "pay", "when": "args.amount > 1000", "effect": "block"}
FOUND = (Finding(kind="EMAIL", category="pii", start=0, end=9, where="/to"),)


def policy(count: int, *, globs: bool = False) -> Policy:
    names = (f"tool_{n}*" if globs else f"tool_{n}" for n in range(count - 1))
    filler = [{"id": f"f{n}", "tool": name, "effect": "block"} for n, name in enumerate(names)]
    return load([*filler, READS])


def load(rules: list[dict[str, Any]]) -> Policy:
    return PolicySources.of(json.dumps({"version": 1, "rules": rules})).load_policy(frozenset())


def call(**more: Any) -> Facts:
    given: dict[str, Any] = {"name": "pay", "arguments": {"to": "ann", "amount": 120, "note": ""}}
    return Facts(kind="tool", agent_tier="standard", now_ns=1, **(given | more))


def microseconds(run: Callable[[], object], number: int = 20_000) -> float:
    return min(timeit.repeat(run, number=number, repeat=7)) / number * 1e6


def main() -> None:
    ten, thousand, globs = policy(10), policy(1000), policy(1000, globs=True)
    three = load([READS | {"id": f"r{n}", "when": f"args.amount > {n}000 && args.to != 'x'"} for n in range(1, 4)])
    nested = {"to": "ann", "amount": 120, "rows": [{"key": "v" * 100, "n": n} for n in range(1500)]}
    rows: list[tuple[str, Policy, Facts]] = [
        ("10 rules, one reads an argument", ten, call()),
        ("10 rules, and it blocks", ten, call(arguments={"amount": 5000})),
        ("10 rules, and its condition fails", ten, call(arguments={})),
        ("10 rules, with a finding", ten, call(findings=FOUND)),
        ("10 rules, none for this tool", ten, call(name="other")),
        ("10 rules, 200 kB of nested arguments", ten, call(arguments=nested)),
        ("3 conditions on one tool", three, call()),
        ("1,000 rules for exact names", thousand, call()),
        ("1,000 rules, 999 of them globs", globs, call()),
    ]
    for what, made, facts in rows:
        print(f"{what:40} {microseconds(lambda made=made, facts=facts: made.evaluate(facts)):8.2f} µs")
    fresh = iter(range(10**9))
    cold = microseconds(lambda: globs.evaluate(call(name=f"new-{next(fresh)}")), 200)
    print(f"{'1,000 rules, a name never seen before':40} {cold:8.2f} µs")

    def loading() -> None:
        compiled.cache_clear()
        load([READS | {"id": f"r{n}", "when": f"args.amount > {n}"} for n in range(1000)])

    print(f"{'loading 1,000 rules with conditions':40} {microseconds(loading, 1) / 1000:8.2f} ms")


if __name__ == "__main__":
    main()
