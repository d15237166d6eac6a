"""Splits are partitions that part nothing which belongs together."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldframe.errors import DataError
from coldframe.tasks.splits import held_out_rows, random_split, scaffold_split, spared_split, stratified_split

KEYS = st.lists(st.integers(0, 30).map(str), min_size=2, max_size=60)
SIZES = st.floats(0.05, 0.6)


def sides(values: list[str], held: np.ndarray) -> set[str]:
    """Values that stand on both sides."""
    return {v for v, out in zip(values, held, strict=True) if out} & {
        v for v, out in zip(values, held, strict=True) if not out
    }


@settings(deadline=None)
@given(KEYS, SIZES, st.integers(0, 5))
def test_random_parts_no_key_and_holds_out_at_most_what_was_asked(keys: list[str], size: float, seed: int) -> None:
    count = -(-len(keys) * size // 1)
    if not 0 < held_out_count(keys, size) < len(keys):
        return
    held = random_split(keys, size, seed)
    assert not sides(keys, held)
    assert held.sum() <= count
    assert (held == random_split(keys, size, seed)).all()


def held_out_count(keys: list[str], size: float) -> int:
    try:
        return held_out_rows(len(keys), size)
    except DataError:
        return 0


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 8)), min_size=4, max_size=60), SIZES, st.integers(0, 5))
def test_scaffold_parts_neither_scaffold_nor_key(rows: list[tuple[int, int]], size: float, seed: int) -> None:
    keys, scaffolds = [str(k) for k, _ in rows], [str(s) for _, s in rows]
    try:
        held = scaffold_split(keys, scaffolds, size, seed)
    except DataError:  # all rows hang together, or nothing would be left
        return
    assert not sides(keys, held)
    assert not sides(scaffolds, held)
    assert 0 < held.sum() < len(rows)
    assert (held == scaffold_split(keys, scaffolds, size, seed)).all()


@settings(deadline=None)
@given(st.lists(st.sampled_from("aabbbbcd"), min_size=8, max_size=80), st.floats(0.1, 0.5), st.integers(0, 5))
def test_stratified_keeps_every_label_and_its_share(labels: list[str], size: float, seed: int) -> None:
    keys = [str(i) for i in range(len(labels))]
    held = stratified_split(keys, labels, size, seed)
    total, out = Counter(labels), Counter(label for label, h in zip(labels, held, strict=True) if h)
    for label, n in total.items():
        assert out[label] < n
        assert out[label] <= np.ceil(n * held_out_rows(len(labels), size) / len(labels))
    if min(total.values()) > 3:
        assert held.sum() == held_out_rows(len(labels), size)


def test_large_scaffolds_stay_in_train() -> None:
    scaffolds = ["big"] * 50 + [f"s{i // 2}" for i in range(50)]
    held = scaffold_split([str(i) for i in range(100)], scaffolds, 0.2)
    assert held.sum() == 20
    assert not held[:50].any()


def test_seeds_differ() -> None:
    keys = [str(i) for i in range(100)]
    assert (random_split(keys, 0.2, 0) != random_split(keys, 0.2, 1)).any()
    assert (scaffold_split(keys, keys, 0.2, 0) != scaffold_split(keys, keys, 0.2, 1)).any()


def test_one_scaffold_cannot_be_split() -> None:
    with pytest.raises(DataError, match="one scaffold"):
        scaffold_split(list("abcd"), ["s"] * 4, 0.25)


@pytest.mark.parametrize("size", [0, 0.0, 4, 1.0])
def test_sizes_that_leave_nothing_are_told(size: float) -> None:
    with pytest.raises(DataError, match="held-out"):
        random_split(list("abcd"), size)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), min_size=2, max_size=60), SIZES, st.integers(0, 5))
def test_spared_parts_no_key_and_leaves_every_group_a_row(rows: list[tuple[int, int]], size: float, seed: int) -> None:
    keys, groups = [str(key) for key, _ in rows], [str(group) for _, group in rows]
    if not (count := held_out_count(keys, size)):
        return
    held = spared_split(keys, groups, size, seed)
    assert not sides(keys, held) and held.sum() <= count
    assert {group for group, out in zip(groups, held, strict=True) if not out} == set(groups)
    assert (held == spared_split(keys, groups, size, seed)).all()
