"""Entries that no similarity chooses: those that come with a row, random ones, or the same for all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import DataError
from coldframe.retrieval.index import Exclude, Indices, Scores
from coldframe.tasks.task import Example, content_hash


def random_rows(example: Example, rows: int, k: int, exclude: NDArray[np.int64], seed: int) -> Indices:
    """Positions below ``rows`` for one query, k of them, padded with -1: the same whatever is retrieved beside it."""
    rng = np.random.default_rng([seed, int(content_hash(example.id), 16)])
    sample = rng.choice(rows, min(k + len(exclude), rows), replace=False)
    sample = sample[~np.isin(sample, exclude)][:k]
    return np.pad(sample, (0, k - len(sample)), constant_values=-1)


def queue_of_labels(targets: Sequence[str], seed: int) -> Indices:
    """All positions, shuffled, the labels taking turns: its first k are the fixed set.

    Example:
        >>> sorted(["A", "A", "B", "A"][i] for i in queue_of_labels(["A", "A", "B", "A"], seed=0)[:2])
        ['A', 'B']
    """
    turns: dict[str, int] = defaultdict(int)
    rank = np.empty(len(targets), np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(targets))
    for position in shuffled:
        target = targets[position]
        rank[position], turns[target] = turns[target], turns[target] + 1
    return np.asarray(shuffled[np.argsort(rank[shuffled], kind="stable")], np.int64)


def first_in_queue(queue: Indices, k: int, exclude: NDArray[np.int64]) -> Indices:
    """The first k of a queue, in store order; a query that is one of them gets the next in the queue instead."""
    head = queue[: k + len(exclude)]
    return np.sort(head[~np.isin(head, exclude)][:k])


def look_up(
    examples: Sequence[Example], places: Mapping[str, int], k: int, exclude: Exclude
) -> tuple[Indices, Scores, NDArray[np.bool_]]:
    """The first k entries that came with each row, in its order; the r-th is scored 1/r, so that it stays the r-th.

    An entry named twice counts once.
    """
    indices = np.full((len(examples), k), -1, np.int64)
    scores = np.zeros(indices.shape, np.float32)
    for i, (example, left_out) in enumerate(zip(examples, exclude, strict=True)):
        names = dict.fromkeys(example.contexts or ())
        if unknown := [name for name in names if name not in places]:
            raise DataError(
                f"{row_name(example)} came with the entry {unknown[0]!r}, which the store does not have",
                fix="Put every entry that a row names into the store.",
            )
        entries = [places[name] for name in names if places[name] not in left_out][:k]
        indices[i, : len(entries)] = entries
        scores[i, : len(entries)] = 1 / np.arange(1, len(entries) + 1)
    return indices, scores, np.array([example.contexts is not None for example in examples], bool)


def row_name(example: Example) -> str:
    """A row as messages name it."""
    return f"Row {example.row}" if example.row else f"The row {example.id!r}"
