"""What was retrieved for another query: nothing of one's own, each set used once where that can be had."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldframe.errors import DataError
from coldframe.retrieval.retriever import RetrievalConfig, Retriever
from coldframe.retrieval.store import Retrieved, Store
from coldframe.retrieval.swap import donors, swapped
from coldframe.tasks.task import Example

STORE = Store.of([Example(f"text {i}", "AB"[i % 2], id=f"e{i}", key=f"k{i}") for i in range(8)])


def retrieved(*rows: list[int], store: Store = STORE) -> Retrieved:
    return Retrieved(store, np.array(rows), np.tile(np.float32([0.9, 0.5]), (len(rows), 1)))


@pytest.mark.slow
@given(st.lists(st.frozensets(st.integers(0, 9), max_size=3), min_size=2, max_size=30), st.integers(0, 3))
@settings(deadline=None)
def test_donors_are_a_permutation_that_leaves_nobody_with_its_own(sets: list[frozenset[int]], seed: int) -> None:
    others = donors(sets, seed=seed)
    assert sorted(others.tolist()) == list(range(len(sets)))
    assert not (others == np.arange(len(sets))).any()
    np.testing.assert_array_equal(others, donors(sets, seed=seed))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.integers(0, 2**31))
@settings(deadline=None)
def test_of_single_entries_as_few_as_can_be_keep_theirs(entries: list[int], seed: int) -> None:
    others = donors([{entry} for entry in entries], seed=seed)
    marks = np.array(entries)
    assert (marks[others] == marks).sum() == max(0, 2 * int(np.bincount(marks).max()) - len(entries))


def test_donors_are_drawn() -> None:
    sets = [frozenset({i}) for i in range(4)]
    assert len({tuple(donors(sets, seed=seed)) for seed in range(200)}) == 6  # all cycles of length 4


def test_the_fewest_keep_an_equal_set() -> None:
    """Of 24 queries 16 retrieved the same: at least 2 * 16 - 24 keep it."""
    sets = [frozenset({0})] * 16 + [frozenset({i}) for i in range(1, 9)]
    for seed in range(5):
        others = donors(sets, seed=seed)
        assert sum(sets[i] == sets[other] for i, other in enumerate(others)) == 8


def test_overlap_is_avoided_where_exchanges_can_do_it() -> None:
    rng = np.random.default_rng(0)
    for seed, (entries, k) in enumerate([(12, 3), (12, 3), (30, 5), (30, 5), (9, 3)]):  # most pairs overlap
        sets = [frozenset(rng.choice(entries, k, replace=False).tolist()) for _ in range(60)]
        others = donors(sets, seed=seed)
        assert all(sets[i].isdisjoint(sets[other]) for i, other in enumerate(others))


def test_every_set_is_used_once_with_its_scores() -> None:
    own = retrieved([0, 1], [2, 3], [4, 5], [6, -1])
    other = swapped(own, seed=1)
    assert Counter(map(tuple, other.indices.tolist())) == Counter(map(tuple, own.indices.tolist()))
    for before, after in zip(own.indices, other.indices, strict=True):
        assert set(before[before >= 0]).isdisjoint(after)
    np.testing.assert_array_equal(other.scores, own.scores)


def test_where_all_share_an_entry_others_of_the_store_stand_in() -> None:
    other = swapped(retrieved([0, 1], [0, 2], [0, 3]))
    for own, row in zip(([0, 1], [0, 2], [0, 3]), other.indices.tolist(), strict=True):
        assert set(row).isdisjoint(own) and len(set(row)) == 2 and min(row) >= 0
    assert not other.scores.any()
    alone = swapped(retrieved([0, 1]))
    assert set(alone.indices[0].tolist()).isdisjoint([0, 1])
    assert swapped(retrieved([0, 1]).rows([])).indices.shape == (0, 2)


def test_nothing_to_swap_with_is_an_error() -> None:
    with pytest.raises(DataError, match="every entry of the store"):
        swapped(retrieved([0, 1], store=Store(STORE.examples[:2])))
    with pytest.raises(DataError, match="two queries"):
        donors([frozenset({1})])


def test_the_strategy_swaps_what_would_have_been_retrieved_and_never_gives_a_query_itself() -> None:
    words = "ant bee cat dog elk fox gnu hen".split()
    rows = [Example(f"{word} {word} {i}", "AB"[i % 2], id=f"r{i}", key=word) for i in range(3) for word in words]
    config = RetrievalConfig(similarity="bm25")
    usual = Retriever(Store.of(rows), "text", 2, config).retrieve(rows, exclude_same_key=True)
    tool = Retriever(Store.of(rows), "text", 2, config.replace(strategy="swapped"))
    other = tool.retrieve(rows, exclude_same_key=True)
    for i, row in enumerate(rows):
        assert set(other.indices[i]).isdisjoint(usual.indices[i])
        assert row.key not in {e.key for e in other.examples(i)}
    assert (other.scores > 0).mean() > 0.8  # most are another query's, with its scores; few had to be drawn
    again = Retriever(Store.of(rows), "text", 2, config.replace(strategy="swapped", seed=1))
    assert (again.retrieve(rows, exclude_same_key=True).indices != other.indices).any()


def test_rows_own_entries_are_swapped_too() -> None:
    rows = [Example(f"q{i}", "A", id=f"q{i}", key=f"q{i}", contexts=(f"e{i}",)) for i in range(4)]
    tool = Retriever(STORE, "text", 1, RetrievalConfig(similarity="bm25", strategy="swapped"))
    indices = tool.retrieve(rows, exclude_same_key=False).indices[:, 0]
    assert sorted(indices.tolist()) == [0, 1, 2, 3] and (indices != np.arange(4)).all()
