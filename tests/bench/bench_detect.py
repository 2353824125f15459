"""Measure the detectors: precision and recall on a corpus, time on clean, varied and hostile texts.

python tests/bench/bench_detect.py accuracy presidio-research/generated_large.json
python tests/bench/bench_detect.py alarms injecguard/NotInject_one.json …
python tests/bench/bench_detect.py speed
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tappass.engine.detect.detectors import Detectors

KINDS = {
    "CREDIT_CARD": "PAYMENT_CARD",
    "EMAIL_ADDRESS": "EMAIL",
    "IBAN_CODE": "IBAN",
    "IP_ADDRESS": "IP_ADDRESS",
    "PHONE_NUMBER": "PHONE",
    "US_SSN": "US_SSN",
}


def accuracy(path: str, *, verbose: bool) -> None:
    """Print precision and recall by kind: a finding counts if it overlaps a span of the same type."""
    detectors = Detectors(KINDS.values())
    right, wrong, seen, missed = Counter(), Counter(), Counter(), Counter()
    for sample in json.loads(Path(path).read_text()):
        text = sample["full_text"]
        spans = [
            (KINDS[s["entity_type"]], s["start_position"], s["end_position"])
            for s in sample["spans"]
            if s["entity_type"] in KINDS
        ]
        found = [(f.kind, f.start, f.end) for f in detectors.find(text)]
        for kind, start, end in spans:
            hit = any(k == kind and a < end and start < b for k, a, b in found)
            (seen if hit else missed)[kind] += 1
            if verbose and not hit:
                print("missed", kind, repr(text[start:end]), "in", repr(text[max(0, start - 40) : end + 20]))
        for kind, start, end in found:
            hit = any(k == kind and a < end and start < b for k, a, b in spans)
            (right if hit else wrong)[kind] += 1
            if verbose and not hit:
                print("wrong", kind, repr(text[start:end]), "in", repr(text[max(0, start - 40) : end + 20]))
    print(f"{'kind':14}{'spans':>7}{'found':>7}{'wrong':>7}{'precision':>11}{'recall':>9}{'F1':>7}")
    for kind in [*sorted(KINDS.values()), "all"]:
        r, w, s, m = (sum(c.values()) if kind == "all" else c[kind] for c in (right, wrong, seen, missed))
        precision, recall = r / max(1, r + w), s / max(1, s + m)
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        print(f"{kind:14}{s + m:>7}{s:>7}{w:>7}{precision:>11.3f}{recall:>9.3f}{f1:>7.3f}")


def alarms(paths: list[str]) -> None:
    """Print what is found in texts that are known to hold nothing."""
    detectors, found, texts = Detectors(), Counter(), 0
    for path in paths:
        for item in json.loads(Path(path).read_text()):
            texts += 1
            prompt = item["prompt"]
            for f in detectors.find(prompt):
                found[f.kind] += 1
                print(f.kind, repr(prompt[f.start : f.end]))
    print(f"{texts} texts, findings: {dict(found)}")


def _seconds(run: Callable[[], object], least_s: float = 0.2) -> float:
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < least_s:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


HOSTILE = {
    "a@a@…": "a@",
    "digits": "1234567890",
    "4111 1111 …": "4111 ",
    "eyJeyJ…": "eyJ",
    "eyJa.eyJa.": "eyJhbGciOjF9.",
    "BEGIN …": "-----BEGIN PRIVATE KEY-----\n",
    "ghp_ghp_…": "ghp_",
    "sk-sk-…": "sk-",
    "://://…": "a://b:c",
    "AB12 AB12": "GB12 ",
    "1.1.1.1.": "1.",
    "::::": "a:",
    "123-45-": "123-45-",
    "phones": "+1 (202) 555 ",
    "secret …": "secret " + "aB3/" * 10 + " ",
    "one word": "a",
    "dots": ".",
    "one wide letter": "\u4e2d",
}


def speed() -> None:
    """Print times on clean, varied and hostile texts; the last column is what doubling the text does."""
    detectors = Detectors()
    small = {"to": "acme", "amount": 120.0, "note": ""}
    clean = ("The quarterly report is ready for review and the team meets on Tuesday. " * 3)[:200]
    print(f"small call {_seconds(lambda: [detectors.inspect(small) for _ in range(1000)]) * 1e3:.2f} us")
    print(f"200 characters {_seconds(lambda: [detectors.inspect({'t': clean}) for _ in range(1000)]) * 1e3:.2f} us")
    prose = (clean * 500)[:100_000]
    print(f"100 kB prose {_seconds(lambda: detectors.find(prose)) * 1e3:.2f} ms")
    varied = _varied(100_000)
    print(
        f"100 kB varied {_seconds(lambda: detectors.find(varied)) * 1e3:.2f} ms, {len(detectors.find(varied))} findings"
    )
    wide = (clean.replace("e", "é").replace("Tuesday", "\u0432\u0442\u043e\u0440\u043d\u0438\u043a") * 600)[:100_000]
    print(f"100 kB not ASCII {_seconds(lambda: detectors.find(wide)) * 1e3:.2f} ms")
    for size in (4, 64):
        pieces = [clean[i : i + size] for i in range(0, len(clean), size)] * 20

        def run(pieces: list[str] = pieces) -> None:
            stream = detectors.redactor()
            for piece in pieces:
                stream.feed(piece)
            stream.finish()

        print(f"stream, pieces of {size}: {_seconds(run) / len(pieces) * 1e6:.1f} us a piece")
    for name, unit in HOSTILE.items():
        once, twice = (
            _seconds(lambda text=(unit * n)[:n]: detectors.find(text), 0)  # type: ignore[misc]
            for n in (500_000, 1_000_000)
        )
        print(f"hostile 1 MB {name:16} {twice:6.2f} s   x{twice / once:.1f}")


def _varied(size: int) -> str:
    pick = random.Random(7)
    words = [
        "invoice",
        "total",
        "due",
        "account",
        "order",
        "shipped",
        "review",
        "ready",
        "between",
        "manager",
        "Tuesday",
    ]
    parts: list[str] = []
    while sum(map(len, parts[-50:])) * max(1, len(parts) // 50) < size:
        parts += (pick.choice(words) for _ in range(40))
        parts += (
            f"{pick.randrange(1, 99999)}", f"2024-0{pick.randrange(1, 9)}-1{pick.randrange(9)}",
            f"{pick.randrange(999)}.{pick.randrange(10, 99)}", f"user{pick.randrange(999)}@example.com",
            f"https://example.com/{pick.randrange(1 << 60):x}", f"{pick.randrange(10**10, 10**16)}",
        )  # fmt: skip
    return " ".join(parts)[:size]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["accuracy", path, *rest]:
            accuracy(path, verbose="-v" in rest)
        case ["alarms", *paths]:
            alarms(paths)
        case _:
            speed()
