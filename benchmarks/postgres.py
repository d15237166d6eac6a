"""How fast the index in PostgreSQL is, beside the exact one in memory, on a million fingerprints of 2,048 bits.

    python benchmarks/postgres.py                      # some minutes: the embedded server, 1,000,000 rows
    python benchmarks/postgres.py --rows 100000 --hnsw # and the graph, with its recall
    python benchmarks/postgres.py --url postgresql://user@host/db

A table goes to the standard error stream, JSON to the standard output. Fingerprints are `b3db-crossed` of
benchmarks/retrieval.py if the task b3db is at hand (--scaffolds takes its `scaffolds`). Neighbours are compared with
those of the exact index, positions and ties included, before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from typing import Any

import numpy as np

from benchmarks.retrieval import crossed, milliseconds, scaffolds
from coldframe.retrieval.exact import ExactTanimoto
from coldframe.retrieval.molecules import morgan_bits
from coldframe.retrieval.postgres import PostgresTanimoto
from coldframe.retrieval.similarity import Sets

K = 5


def processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--url", default="")
    parser.add_argument("--scaffolds", action="store_true")
    parser.add_argument("--hnsw", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    if options.scaffolds:
        packed = scaffolds(options.rows, rng)
    else:
        from coldframe.tasks import load_task

        packed = crossed(morgan_bits([row.text for row in load_task("b3db").train]), options.rows, rng)
    sets = Sets.of_bits(packed)
    queries = Sets.of([sets[i] for i in np.linspace(0, options.rows - 1, options.queries).astype(int)])
    result: dict[str, Any] = {"processor": processor(), "rows": options.rows, "k": K, "queries": options.queries}
    started = time.perf_counter()
    exact = ExactTanimoto(sets)
    result["exact_build_s"] = time.perf_counter() - started
    expected = exact.search(queries, K)
    result["exact_ms"] = milliseconds(lambda i: exact.search(Sets.of([queries[i]]), K), options.queries)
    for name, approximate in (("postgres", False), ("postgres-hnsw", True))[: 1 + options.hnsw]:
        started = time.perf_counter()
        index = PostgresTanimoto(lambda: sets, f"benchmark {options.rows}", options.url, approximate=approximate)
        result[f"{name}_build_s"] = time.perf_counter() - started
        rows, scores = index.search(queries, K)
        if approximate:
            result["recall"] = float((scores >= expected[1][:, -1:]).mean())
        elif (rows.tolist(), scores.tolist()) != (expected[0].tolist(), expected[1].tolist()):
            raise SystemExit("the neighbours differ from those of the exact index")
        result[f"{name}_ms"] = milliseconds(lambda i, at=index: at.search(Sets.of([queries[i]]), K), options.queries)
    size = f"SELECT pg_total_relation_size('{index.table}')"
    result["table_mb"] = index._scan.run(lambda cursor: cursor.execute(size).fetchone()[0]) / 1e6
    index.drop()
    for key, value in result.items():
        print(f"{key:<20} {value}", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
