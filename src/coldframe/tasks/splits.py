"""Cutting rows in two, so that nothing stands on both sides.

Every function takes the rows' keys (equal for rows that are the same thing) and returns a boolean array, True
for the rows that are held out. Rows that share a key are never parted.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import DataError

Mask = NDArray[np.bool_]


def held_out_rows(n: int, size: int | float) -> int:
    """How many of ``n`` rows are held out: a whole number is rows, a fraction is rounded up.

    >>> held_out_rows(3892, 0.2), held_out_rows(3892, 500)
    (779, 500)
    """
    count = size if isinstance(size, int) else math.ceil(round(size * n, 6))
    if not 0 < count < n:
        raise DataError(
            f"{n} row(s) cannot give a held-out part of {size} and keep some to learn from",
            fix="Bring more rows, ask for another size, or name a file of test rows.",
        )
    return count


def random_split(keys: Sequence[str], size: int | float, seed: int = 0) -> Mask:
    """Hold out rows at random.

    Args:
        keys: One per row.
        size: Rows (int) or share (float) to hold out.
        seed: Same seed, same split.
    """
    return _fill(keys, _shuffled(keys, seed), held_out_rows(len(keys), size))


def stratified_split(keys: Sequence[str], labels: Sequence[str], size: int | float, seed: int = 0) -> Mask:
    """Hold out the same share of every label (largest remainder), leaving each label at least one row.

    Args:
        keys: One per row; rows with one key go where the label of their first row goes.
        labels: One per row.
        size: Rows (int) or share (float) to hold out.
        seed: Same seed, same split.
    """
    count = held_out_rows(len(keys), size)
    first: dict[str, str] = {}
    for key, label in zip(keys, labels, strict=True):
        first.setdefault(key, label)
    strata = np.array([first[key] for key in keys])
    sizes = Counter(strata.tolist())
    exact = {label: n * count / len(keys) for label, n in sizes.items()}
    quota = {label: math.floor(share) for label, share in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (quota[label] - exact[label], -sizes[label], label))
    for label in by_remainder[: count - sum(quota.values())]:
        quota[label] += 1
    held = np.zeros(len(keys), bool)
    for label in sorted(quota):
        rows = np.flatnonzero(strata == label)
        own = [keys[i] for i in rows.tolist()]
        held[rows] = _fill(own, _shuffled(own, seed), min(quota[label], len(set(own)) - 1))
    return held


def spared_split(keys: Sequence[str], groups: Sequence[Hashable], size: int | float, seed: int = 0) -> Mask:
    """Hold out rows at random, and leave every group at least one row.

    Args:
        keys: One per row.
        groups: One per row.
        size: Rows (int) or share (float) to hold out; fewer, where too few can be spared.
        seed: Same seed, same split.
    """
    count = held_out_rows(len(keys), size)
    of_key: dict[str, list[int]] = {}
    for position, key in enumerate(keys):
        of_key.setdefault(key, []).append(position)
    left = Counter(groups)
    held = np.zeros(len(keys), bool)
    for key in _shuffled(keys, seed):
        taken = Counter(groups[position] for position in of_key[key])
        if len(of_key[key]) <= count and all(left[group] > n for group, n in taken.items()):
            held[of_key[key]] = True
            count -= len(of_key[key])
            left -= taken
    return held


def scaffold_split(keys: Sequence[str], scaffolds: Sequence[str], size: int | float, seed: int = 0) -> Mask:
    """Hold out whole scaffolds: no scaffold, and no key, stands on both sides.

    Groups are ordered by size (largest first, then by first appearance), shuffled with the seed, and taken
    while they fit. Groups of more than a tenth of the held-out part come last, smallest first, so that the
    large ones stay in the training part and the held-out part is made of many scaffolds. Molecules without
    a ring are one group. Fewer rows than asked for are held out if no further group fits.

    Args:
        keys: One per row; scaffolds that share a key are one group.
        scaffolds: One per row.
        size: Rows (int) or share (float) to hold out.
        seed: Same seed, same split.

    Raises:
        DataError: If all rows are one group.
    """
    count = held_out_rows(len(keys), size)
    groups = _joined(keys, scaffolds)
    sizes = Counter(groups)  # in order of first appearance, which the stable sort below keeps
    order = sorted(sizes, key=lambda group: -sizes[group])
    random.Random(seed).shuffle(order)
    order.sort(key=lambda group: sizes[group] if sizes[group] > max(1, count // 10) else 0)
    held = _fill(groups, order, count)
    if not held.any():
        if len(sizes) == 1:
            raise DataError("All molecules share one scaffold", fix="Use split='stratified' or split='random'.")
        held = np.array([group == min(order, key=lambda g: sizes[g]) for group in groups])
    return held


def _shuffled(keys: Sequence[str], seed: int) -> list[str]:
    order = list(dict.fromkeys(keys))
    random.Random(seed).shuffle(order)
    return order


def _fill(groups: Sequence[Hashable], order: Sequence[Hashable], count: int) -> Mask:
    """Take whole groups in the given order, each if it still fits into ``count`` rows."""
    sizes: Mapping[Hashable, int] = Counter(groups)
    taken, left = set(), count
    for group in order:
        if sizes[group] <= left:
            taken.add(group)
            left -= sizes[group]
    return np.array([group in taken for group in groups], dtype=bool)


def _joined(keys: Sequence[str], scaffolds: Sequence[str]) -> list[int]:
    """One number per row, equal for rows connected through equal keys or scaffolds (union-find)."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for key, scaffold in zip(keys, scaffolds, strict=True):
        parent[root(("key", key))] = root(("scaffold", scaffold))
    numbers: dict[tuple[str, str], int] = {}
    return [numbers.setdefault(root(("key", key)), len(numbers)) for key in keys]
