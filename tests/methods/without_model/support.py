"""Small tasks for classifiers: words that mostly belong to one label, and vectors in three corners."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coldframe.tasks.task import Example, Schema, Task

SCHEMA = Schema("made-up", labels=("a", "b", "c"), words=("A", "B", "C"), metric="effective_accuracy")
WORDS = {"a": "sun sand dune salt heat", "b": "rain mist cloud pond wind", "c": "moss fern bark root leaf"}


def noisy_task(train: int = 48, validation: int = 18, test: int = 8) -> Task:
    """Five words a row, two of five of them at random; half of the rows are of label a."""
    rng = np.random.default_rng(5)
    rows = []
    for i in range(train + validation + test):
        label = "aaabbc"[rng.integers(6)]
        words = [
            WORDS[label if rng.random() < 0.6 else "abc"[rng.integers(3)]].split()[rng.integers(5)] for _ in range(5)
        ]
        rows.append(Example(" ".join(words), label, f"row-{i:03d}", f"row-{i:03d}"))
    return Task(
        SCHEMA,
        tuple(rows[:train]),
        tuple(rows[train : train + validation]),
        tuple(rows[train + validation :]),
    )


def corners(rows: int, labels: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Vectors around the corners of a simplex, and which corner."""
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(labels), rng.integers(0, labels, rows - labels)])
    return (np.eye(labels)[targets] + rng.normal(scale=0.4, size=(rows, labels))).astype(np.float32), targets
