"""Entries that come with a row: looked up, not searched for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import DataError
from coldframe.retrieval.index import Exclude, Indices, Scores
from coldframe.tasks.task import Example


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
