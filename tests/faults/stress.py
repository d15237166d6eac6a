"""Sixteen threads on one model, methods of all ports interleaved, beside one thread that answers the same alone.

Usage: python -m tests.faults.stress [ANSWERS A THREAD]. Prints one JSON object: threads, answers, wrong ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import torch
from tests.contract import cases
from tests.tiny import tiny

import coldframe as cf
from coldframe.frozen.model import FrozenLM
from coldframe.pipeline.pipeline import Pipeline

METHODS = ("zero-shot", "icl", "lora", "pear", "prag", "mha-esp")
QUERIES = 3  # in one call
THREADS = 16


def pipelines(lm: FrozenLM) -> list[Pipeline]:
    """One of every method, all on one model."""
    fitted = []
    for name in METHODS:
        case = next(case for case in cases.METHODS if case.id == name)
        training = {"epochs": 1, "batch_size": 4} if case.method().trainable else None
        retrieval = cf.RetrievalConfig(encoder="tiny")
        task = cases.task_of(case)
        fitted.append(cf.fit(case.method(), lm, task, retrieval=retrieval, training=training, quiet=True))
    return fitted


def texts(thread: int, turn: int) -> list[str]:
    """Queries of a call: one that all threads ask, and two of its own."""
    return [f"the answer of turn {turn % 7}", f"question {turn} of thread {thread}", f"yes CC(=O)O {thread * turn}"]


def answer(pipeline: Pipeline, thread: int, turn: int) -> Any:
    """Probabilities, or what was written."""
    if pipeline.schema.kind == "classification":
        return pipeline.predict_proba(texts(thread, turn))
    return pipeline.predict(texts(thread, turn))


def same(answered: Any, right: Any) -> bool:
    """Whether two answers agree: words to the letter, probabilities up to the order of additions."""
    if isinstance(right, list):
        return bool(answered == right)
    return bool(np.allclose(answered, right, atol=1e-4) and (answered.argmax(1) == right.argmax(1)).all())


def rounds(
    shared: Sequence[Pipeline], alone: Sequence[Pipeline], threads: int, turns: int
) -> tuple[list[tuple[str, int, int]], int]:
    """Which answers of the threads differ from those of one thread (method, thread, turn), and how many there were."""
    barrier = Barrier(threads)

    def work(thread: int) -> list[Any]:
        torch.set_num_threads(1)
        barrier.wait()
        return [answer(shared[(thread + turn) % len(shared)], thread, turn) for turn in range(turns)]

    with ThreadPoolExecutor(threads) as pool:
        answered = list(pool.map(work, range(threads)))
    wrong = []
    for thread, own in enumerate(answered):
        for turn, value in enumerate(own):
            pipeline = alone[(thread + turn) % len(alone)]
            if not same(value, answer(pipeline, thread, turn)):
                wrong.append((pipeline.method.name, thread, turn))
    return wrong, threads * turns * QUERIES


def main(answers: int) -> int:
    """Run it, print the figures."""
    import coldframe.pipeline.setup
    import coldframe.retrieval.retriever

    coldframe.pipeline.setup.load_encoder = cases.TinyEncoder  # type: ignore[assignment]
    coldframe.retrieval.retriever.load_encoder = cases.TinyEncoder  # type: ignore[assignment]
    shared, alone = (pipelines(FrozenLM(*tiny("llama"))) for _ in range(2))
    wrong, count = rounds(shared, alone, THREADS, -(-answers // QUERIES))
    print(json.dumps({"threads": THREADS, "methods": METHODS, "answers": count, "wrong": len(wrong)}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 625))
