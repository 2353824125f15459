"""What the log costs: writing a call, queueing an ending, verifying, memory. `python -m tests.bench.bench_log`."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tappass.engine.audit.export import export
from tappass.engine.audit.keys import log_key
from tappass.engine.audit.verify import verify
from tappass.engine.store.sqlite import SqliteStore
from tappass.wire.codec import canonical
from tests.engine.store.events import event, task

CONTENT = canonical({"to": "acme", "amount": 120, "note": "x" * 150})
FIELDS = {"kind": "tool", "mode": "enforce", "tier": "standard"}


def one_call(store):
    """Write a decision, queue its ending; return the nanoseconds of each."""
    name = task()
    decided, ended = event("call.decided", name, **FIELDS), event("call.ended", name, duration_us=1200)

    def decide(tx):
        tx.append(decided, CONTENT)

    def end(tx):
        tx.append(ended)

    begin = time.perf_counter_ns()
    store.run(decide)
    middle = time.perf_counter_ns()
    store.later(end)
    return middle - begin, time.perf_counter_ns() - middle


def resident_kb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def writing(path, calls, synchronous="normal"):
    with SqliteStore(path, synchronous=synchronous) as store:
        for _ in range(200):
            one_call(store)
        times = [one_call(store) for _ in range(calls)]
    run = sorted(each[0] / 1000 for each in times)
    later = statistics.median(each[1] / 1000 for each in times)
    return {"p50_us": round(run[calls // 2], 1), "p99_us": round(run[calls * 99 // 100]), "later_us": round(later, 2)}


def memory(path, calls):
    """Return how far the resident size grows from a tenth of the calls to all of them, in kB."""
    with SqliteStore(path) as store:
        for _ in range(calls // 10):
            one_call(store)
        before = resident_kb()
        for _ in range(calls - calls // 10):
            one_call(store)
        return resident_kb() - before


def verifying(directory, path):
    """Return events a second of processor time, the best of three, and the growth of the resident size in kB."""
    with SqliteStore(path) as store, open(directory / "export.jsonl", "wb") as out:
        header = export(store, out, log_key(directory))
    before = resident_kb()
    rates = []
    for _ in range(3):
        begin = time.process_time()
        report = verify(directory / "export.jsonl", header.key)
        rates.append(report.events / (time.process_time() - begin))
        assert report.ok, report.lines()
    return {"events": report.events, "per_s": round(max(rates)), "rss_growth_kb": resident_kb() - before}


def main(calls=20_000, many=100_000):
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        return {
            "write_normal": writing(directory / "normal.db", calls),
            "write_full": writing(directory / "full.db", calls // 10, "full"),
            "rss_growth_kb": memory(directory / "many.db", many),
            "verify": verifying(directory, directory / "many.db"),
        }


if __name__ == "__main__":
    json.dump(main(), sys.stdout, indent=2)
    print()
