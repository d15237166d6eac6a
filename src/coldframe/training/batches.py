"""Batches of like length, in an order that a seed and an epoch decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_POOL = 16  # batches that are sorted by length together: little padding, still well mixed


def length_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Shuffle rows, sort pools of them by length, cut into batches, shuffle those.

    >>> sorted(i for batch in length_batches([3, 1, 2, 9, 8], 2, seed=0, epoch=0) for i in batch)
    [0, 1, 2, 3, 4]
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    batches: list[list[int]] = []
    pool = _POOL * batch_size
    for start in range(0, len(order), pool):
        some = sorted(order[start : start + pool].tolist(), key=lambda i: lengths[i])
        batches += [some[i : i + batch_size] for i in range(0, len(some), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]
