"""How fast the indexes are, side by side with peers, in one run.

    python benchmarks/retrieval.py             # about a minute on two cores
    python benchmarks/retrieval.py --usearch   # and the approximate index, which takes minutes to build

A table goes to the standard error stream, JSON to the standard output. Every result is checked against a
popcount scan before it is timed.

Fingerprints, 2048 bits: `scaffolds` (35 bits shared by a family of 100, 15 of their own), `b3db` (Morgan bits of
the molecules of the task b3db), `b3db-crossed` (each bit of a row taken from one of two b3db molecules, so that
common bits are as common as in nature).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import ColdframeError
from coldframe.retrieval.exact import ExactCosine, ExactTanimoto
from coldframe.retrieval.molecules import BITS, morgan_bits
from coldframe.retrieval.similarity import Sets

K = 5
Packed = NDArray[np.uint8]


def scaffolds(n: int, rng: np.random.Generator) -> Packed:
    """Families of 100 with 35 bits in common and 15 of each one's own."""
    shared = np.stack([rng.choice(BITS, 35, replace=False) for _ in range(max(n // 100, 1))])
    members = np.concatenate([shared[rng.integers(0, len(shared), n)], rng.integers(0, BITS, (n, 15))], axis=1)
    return Sets.of([np.unique(row) for row in members]).packed()


def crossed(rows: Packed, n: int, rng: np.random.Generator) -> Packed:
    """Each bit from one of two rows."""
    mother, father = rows[rng.integers(0, len(rows), n)], rows[rng.integers(0, len(rows), n)]
    coin = rng.integers(0, 256, mother.shape, dtype=np.uint8)
    return (mother & coin) | (father & ~coin)


def popcount(store: Packed, query: Packed) -> NDArray[np.float32]:
    """Tanimoto with every row by and, or, popcount: the plain way."""
    store, query = store.view(np.uint64), query.view(np.uint64)
    shared = np.bitwise_count(store & query).sum(1, dtype=np.float32)
    return shared / np.maximum(np.bitwise_count(store | query).sum(1, dtype=np.float32), 1)


def milliseconds(run: Callable[[int], Any], queries: int) -> dict[str, float]:
    """Median and 95th percentile of one query at a time."""
    run(0)
    taken = []
    for i in range(queries):
        start = time.perf_counter()
        run(i)
        taken.append((time.perf_counter() - start) * 1e3)
    return {"median_ms": float(np.median(taken)), "p95_ms": float(np.quantile(taken, 0.95))}


def measure(name: str, packed: Packed, queries: int, rng: np.random.Generator, approximate: bool) -> list[dict]:
    """All ways to search one store."""
    sample = rng.integers(0, len(packed), queries)
    start = time.perf_counter()
    exact = ExactTanimoto(Sets.of_bits(packed))
    build = time.perf_counter() - start
    sets = [Sets.of_bits(packed[i : i + 1]) for i in sample]
    for i, query in enumerate(sets[:10]):
        truth = popcount(packed, packed[sample[i]])
        order = np.lexsort((np.arange(len(packed)), -truth))[:K]
        rows, scores = exact.search(query, K)
        if rows[0].tolist() != order.tolist() or scores[0].tolist() != truth[order].tolist():
            raise SystemExit(f"{name}: the index and the popcount scan disagree about row {sample[i]}")
    lines = [{"way": "coldframe exact", "build_s": build, **milliseconds(lambda i: exact.search(sets[i], K), queries)}]
    few = min(queries, 20)

    def scan(i: int) -> NDArray[np.int64]:
        return np.argpartition(-popcount(packed, packed[sample[i]]), K)[:K]

    lines.append({"way": "numpy popcount scan", "build_s": 0.0, **milliseconds(scan, few)})
    lines.append(rdkit(packed, sample, few))
    if approximate:
        lines.append(usearch(packed, sample, sets))
    return [{"store": name, "rows": len(packed), **line} for line in lines]


def rdkit(packed: Packed, sample: NDArray[np.int64], queries: int) -> dict:
    """RDKit's BulkTanimotoSimilarity and the five largest of it."""
    from rdkit import DataStructs

    start = time.perf_counter()
    prints, sets = [DataStructs.ExplicitBitVect(BITS) for _ in packed], Sets.of_bits(packed)
    for i, fingerprint in enumerate(prints):
        fingerprint.SetBitsFromList(sets[i].tolist())
    build = time.perf_counter() - start

    def search(i: int) -> NDArray[np.int64]:
        similar = np.array(DataStructs.BulkTanimotoSimilarity(prints[sample[i]], prints))
        return np.argpartition(-similar, K)[:K]

    return {"way": "RDKit bulk", "build_s": build, **milliseconds(search, queries)}


def usearch(packed: Packed, sample: NDArray[np.int64], sets: list[Sets]) -> dict:
    """The approximate index and its recall."""
    from coldframe.retrieval.usearch import UsearchTanimoto

    start = time.perf_counter()
    index = UsearchTanimoto(Sets.of_bits(packed))
    build = time.perf_counter() - start
    recall = index.recall(Sets.of_bits(packed[sample]), K, [np.array([i]) for i in sample])
    times = milliseconds(lambda i: index.search(sets[i], K), len(sets))
    return {"way": "coldframe usearch", "build_s": build, **times, "recall": recall.value}


def lists(packed: Packed) -> dict:
    """Leave-one-out neighbour lists of a whole store, index included."""
    start = time.perf_counter()
    sets = Sets.of_bits(packed)
    ExactTanimoto(sets).search(sets, K, [np.array([i]) for i in range(len(packed))])
    return {"pairs": f"{len(packed)} x {len(packed)} Tanimoto", "seconds": time.perf_counter() - start}


def cosine_lists(n: int, dim: int, rng: np.random.Generator) -> dict:
    """The same for vectors of MiniLM's width."""
    vectors = rng.normal(size=(n, dim)).astype(np.float32)
    start = time.perf_counter()
    ExactCosine(vectors).search(vectors, K, [np.array([i]) for i in range(n)])
    return {"pairs": f"{n} x {n} cosine, {dim} wide", "seconds": time.perf_counter() - start}


def b3db() -> Packed | None:
    """Fingerprints of real molecules, if their package can be had."""
    try:
        from coldframe.tasks import load_task

        task = load_task("b3db")
        return morgan_bits([example.text for example in (*task.train, *task.validation, *task.test)])
    except ColdframeError as error:
        sys.stderr.write(f"without real molecules: {error}\n")
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--usearch", action="store_true", help="also the approximate index (minutes to build)")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    stores = {"scaffolds": scaffolds(options.rows, rng)}
    if (real := b3db()) is not None:
        stores["b3db"] = real
        stores["b3db-crossed"] = crossed(real, options.rows, rng)
    search = [
        line for name, packed in stores.items() for line in measure(name, packed, options.queries, rng, options.usearch)
    ]
    whole = [lists(packed[:10_000]) for packed in stores.values() if len(packed) >= 10_000]
    whole.append(cosine_lists(10_000, 384, rng))
    for line in search:
        recall = f"  recall {line['recall']:.3f}" if "recall" in line else ""
        sys.stderr.write(
            f"{line['store']:14} {line['rows']:>8,} rows  {line['way']:20} {line['median_ms']:8.3f} ms a query "
            f"(p95 {line['p95_ms']:.3f}), built in {line['build_s']:.1f} s{recall}\n"
        )
    for line in whole:
        sys.stderr.write(f"{line['pairs']:36} {line['seconds']:8.2f} s\n")
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "numpy": np.__version__}
    sys.stdout.write(json.dumps({"top": K, "machine": machine, "search": search, "lists": whole}, indent=2) + "\n")


if __name__ == "__main__":
    main()
