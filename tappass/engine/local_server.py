"""The process that serves the local model; run by path, so that it imports nothing of this package.

Reads `{"model", "name", "key"}` as one line on standard input, prints `{"address"}` or `{"error"}` as one line, then
serves until standard input ends, which it does however the parent ends.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

CONTEXT_TOKENS = 4096
PARALLEL = 2
HTTP_THREADS = 4
MAX_ANSWER_TOKENS = 512
# Threads that wait for each other by spinning: on a busy machine two were up to ten times slower than one.
THREADS = 1
MAX_THREADS = 4


def parameters(xllamacpp: Any, order: dict[str, str]) -> Any:
    """Return what to serve and how: on loopback, behind a key, bounded in memory and in the answer's length."""
    chosen = xllamacpp.CommonParams()
    chosen.model.path = order["model"]
    chosen.model_alias = {order["name"]}
    chosen.api_keys = [order["key"]]
    chosen.hostnames, chosen.port = ["127.0.0.1"], 0
    chosen.n_ctx, chosen.n_parallel, chosen.n_threads_http = CONTEXT_TOKENS * PARALLEL, PARALLEL, HTTP_THREADS
    chosen.n_predict, chosen.cache_ram_mib = MAX_ANSWER_TOKENS, 0
    # Half the cores: its threads wait for each other in a spin, and beside other work all of them together are many
    # times slower than one (measured on two busy cores: 1 to 22 tokens a second with two threads, 43 with one).
    for threads in (chosen.cpuparams, chosen.cpuparams_batch):
        threads.n_threads, threads.poll = max(1, min(MAX_THREADS, (os.cpu_count() or 1) // 2)), 0
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = THREADS
    # Equal questions get equal answers: a stand-in is for trying things out, and for tests.
    chosen.sampling.seed, chosen.sampling.temp = 7, 0.2
    chosen.ui = chosen.endpoint_slots = chosen.warmup = False
    chosen.verbosity = -1
    return chosen


def main() -> None:
    """Serve until standard input ends."""
    try:
        order = json.loads(sys.stdin.readline())
        xllamacpp = importlib.import_module("xllamacpp")
        server = xllamacpp.Server(parameters(xllamacpp, order))
        answer = {"address": server.listening_address}
    except Exception as error:
        answer = {"error": type(error).__name__}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    if "address" in answer:
        sys.stdin.read()
    # Not by way of destructors: they wait for open connections.
    os._exit(0)


if __name__ == "__main__":
    main()
