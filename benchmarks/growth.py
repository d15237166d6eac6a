"""How time and memory grow: with rows, labels, the store, passages and the model's size, and with which power of n.

    python -m benchmarks.growth
    python -m benchmarks.growth --rows 1000 10000 --labels 2 20 --store 1000 10000 --passages 100 1000 --sizes 2

Each size is measured in a process of its own: seconds of the processor, and the highest memory beyond that of the
imported libraries, what is worked on included. Some sizes are not measured, and say so in ``how``:

- ``simulated``: a store that is larger than one block of vectors is searched by scanning the same block again, as an
  exact search does with further rows; its memory is that of its numbers.
- ``by shape``: bytes that follow from the numbers stored for each passage.
- ``one layer``: the time of one layer of a model with random weights, times its layers; its memory is that of all
  weights, counted on torch's ``meta`` device.

The exponent is the slope of log(time) over log(n) between the two largest sizes. Growth turns where the slope between
neighbours first is half of that: before it, what is spent once decides.
"""

from __future__ import annotations

import csv
import itertools
import math
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import arguments, say, tell
from benchmarks.labels import PHASES, work
from benchmarks.parametric import bytes_by_shape
from benchmarks.shapes import SHAPES, of_shape
from coldframe.frozen.memory import peak_memory_mb, reset_peak_memory
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.retrieval.exact import ExactCosine, ExactTanimoto
from coldframe.retrieval.similarity import Sets
from coldframe.tasks import load_task
from coldframe.tasks.duplicates import deduplicate
from coldframe.tasks.task import Example

WIDTH, QUERIES, K, BITS = 384, 20, 5, 50
BLOCK = 1_000_000  # rows of vectors in memory
WORDS = [f"word{i}" for i in range(5000)]
BATCH, TOKENS = 8, 60  # of the labels' prompts, and of what a layer reads

#: Measures one size: seconds of the processor, and MB.
Measured = Callable[..., tuple[float, float]]


def texts(n: int, words: int) -> list[str]:
    """Texts of random words; one in a hundred stands there twice."""
    drawn = random.Random(0)
    lines = [" ".join(drawn.choices(WORDS, k=words)) for _ in range(n)]
    lines[1::100] = lines[0::100][: len(lines[1::100])]
    return lines


def reading(n: int) -> Callable[[], object]:
    """A table of n rows, from a file to a task with its parts."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "rows.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        table.writerows((text, "ab"[len(text) % 2]) for text in texts(n, 12))

    def run() -> object:
        with folder:
            return load_task(str(path), text="text", label="label", deduplicate=True)

    return run


def duplicates(n: int) -> Callable[[], object]:
    """Rows that are the same thing, of n."""
    rows = [Example(text, "ab"[len(text) % 2], str(i), text) for i, text in enumerate(texts(n, 12))]
    written = {row.id: row.text for row in rows}
    return lambda: deduplicate(rows, written)


def tanimoto(n: int) -> Callable[[], object]:
    """An index of n fingerprints, and queries to it."""
    members = np.sort(np.random.default_rng(0).integers(0, 2048, (n, BITS)), axis=1)
    sets = Sets.of([np.unique(row) for row in members])
    few = Sets.of([sets[i] for i in range(QUERIES)])
    return lambda: ExactTanimoto(sets).search(few, K)


def cosine(n: int) -> Callable[[], object]:
    """An index of n vectors, and queries to it; beyond one block, the block is scanned again."""
    vectors = np.random.default_rng(0).standard_normal((min(n, BLOCK), WIDTH), np.float32)

    def run() -> None:
        index = ExactCosine(vectors)
        for _ in range(math.ceil(n / BLOCK)):
            index.search(vectors[:QUERIES], K)

    return run


def bm25(n: int) -> Callable[[], object]:
    """An index of n passages by their words, and queries to it."""
    from coldframe.retrieval.bm25 import BM25

    passages = texts(n, 60)
    return lambda: BM25(passages).search([passage[:80] for passage in passages[:QUERIES]], K)


def labels(n: int, model: str, phase: str) -> Callable[[], object]:
    """A batch of prompts with n labels of several tokens."""
    names = tuple(" ".join((WORDS[i % 40], WORDS[i // 40 + 40], "case")) for i in range(n))
    way = work(load_lm(model), phase, names, BATCH, TOKENS)
    way.run(way.prepare())  # warm up
    prompts = way.prepare()
    return lambda: way.run(prompts)


WAYS: dict[str, Callable[..., Callable[[], object]]] = {
    way.__name__: way for way in (reading, duplicates, tanimoto, cosine, bm25, labels)
}


def _measure(send: Any, threads: int, way: str, options: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    reset_peak_memory()
    before = peak_memory_mb()
    run = WAYS[way](*options)
    started = time.process_time()
    run()
    send.send((time.process_time() - started, max(peak_memory_mb() - before, 0.0)))


def in_a_process(threads: int, way: str, *options: Any) -> tuple[float, float]:
    """Seconds of the processor and MB of one way, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(send, threads, way, options))
    process.start()
    send.close()
    seconds, megabytes = receive.recv()
    process.join()
    return float(seconds), float(megabytes)


def slopes(sizes: Sequence[float], values: Sequence[float]) -> list[float]:
    """Slopes of log(value) over log(n) between neighbours.

    >>> [round(slope, 2) for slope in slopes([1, 10, 100], [5, 5, 50])]
    [0.0, 1.0]
    """
    pairs = itertools.pairwise(zip(sizes, values, strict=True))
    return [math.log(max(b, 1e-12) / max(a, 1e-12)) / math.log(n / m) for (m, a), (n, b) in pairs]


def told(of: str, sizes: Sequence[int], measured: Sequence[tuple[float, float]], how: Sequence[str]) -> dict[str, Any]:
    """The table of one way: its sizes, the powers of n, and where the growth of its time turns."""
    seconds, megabytes = [s for s, _ in measured], [m for _, m in measured]
    steep = slopes(sizes, seconds) if all(seconds) else []  # no time is told of what follows from shapes
    turns = next((sizes[i] for i, slope in enumerate(steep) if slope >= steep[-1] / 2 > 0), None)
    for n, s, m, way in zip(sizes, seconds, megabytes, how, strict=True):
        say(f"  {of:32} {n:>14,} {s:10.3f} s of the processor {m:10.1f} MB  {way}")
    return {
        "of": of,
        "n": list(sizes),
        "seconds": seconds,
        "memory_mb": megabytes,
        "how": list(how),
        "exponent": steep[-1] if steep else None,
        "memory_exponent": slopes(sizes, megabytes)[-1] if len(sizes) > 1 and all(megabytes) else None,
        "turns": turns,
    }


def layer_times(name: str) -> tuple[int, float, float]:
    """Parameters of a shape, the time that all its layers need for a batch, and MB of its weights in bf16."""
    shape = SHAPES[name]

    def seconds(layers: int) -> float:
        lm = of_shape({**shape, "num_hidden_layers": layers, "vocab_size": 512})
        ids = torch.zeros(BATCH, TOKENS, dtype=torch.long)
        taken = []
        with torch.no_grad():
            for _ in range(3):
                started = time.process_time()
                lm.body(input_ids=ids)
                taken.append(time.process_time() - started)
        return min(taken)

    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in LlamaForCausalLM(LlamaConfig(**shape)).parameters())
    return count, seconds(1) * shape["num_hidden_layers"], 2 * count / 1e6


def measure(
    lm: FrozenLM, model: str, sizes: dict[str, Sequence[int]], shapes: Sequence[str], highest: Measured
) -> dict[str, Any]:
    """All tables; ``highest`` measures one size."""
    tables = []
    rows = sizes["rows"]
    for way in ("reading", "duplicates", "tanimoto"):
        tables.append(told(f"rows: {way}", rows, [highest(way, n) for n in rows], ["measured"] * len(rows)))
    for phase in PHASES:
        counts = sizes["labels"]
        lines = [highest("labels", n, model, phase) for n in counts]
        tables.append(told(f"labels: {phase}", counts, lines, ["measured"] * len(counts)))
    lines, how = [], []
    for n in sizes["store"]:
        seconds, megabytes = highest("cosine", n)
        lines.append((seconds, megabytes if n <= BLOCK else 4 * WIDTH * n / 1e6))
        how.append("measured" if n <= BLOCK else "simulated")
    tables.append(told("store: cosine", sizes["store"], lines, how))
    passages = sizes["passages"]
    lines = [highest("bm25", n) for n in passages]
    tables.append(told("passages: bm25", passages, lines, ["measured"] * len(passages)))
    for method in ("prag", "poly-prag"):
        lines = [(0.0, bytes_by_shape(lm, n)[method] / 1e6) for n in passages]
        tables.append(told(f"passages: {method}, stored", passages, lines, ["by shape"] * len(passages)))
    models = sorted(map(layer_times, shapes))
    tables.append(
        told("model: reading", [n for n, *_ in models], [(s, m) for _, s, m in models], ["one layer"] * len(models))
    )
    return {"growth": tables, "goals": []}


def main() -> None:
    options = arguments(
        __doc__,
        rows=[1_000, 10_000, 100_000, 1_000_000],
        labels=[2, 10, 100, 1_000],
        store=[1_000, 10_000, 100_000, 1_000_000, 10_000_000],
        passages=[100, 1_000, 10_000, 100_000],
        sizes=len(SHAPES),
    )
    say(f"loading {options.model}")
    lm = load_lm(options.model)
    sizes = {name: getattr(options, name) for name in ("rows", "labels", "store", "passages")}

    def highest(way: str, *of: Any) -> tuple[float, float]:
        return in_a_process(options.threads, way, *of)

    tell(measure(lm, options.model, sizes, list(SHAPES)[: options.sizes], highest), lm)


if __name__ == "__main__":
    main()
