"""Rows that come with their own entries: these are looked up, in their order, and nothing is searched."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coldframe.errors import DataError
from coldframe.retrieval.retriever import RetrievalConfig, Retriever, Strategy
from coldframe.retrieval.store import Store
from coldframe.tasks.task import Example, Passage

PASSAGES = [Passage.of(f"Passage {i} is about {word}.", id=f"p{i}") for i, word in enumerate("a b c d e f".split())]
STORE = Store.of(PASSAGES)


def query(*contexts: str, text: str = "what is a", row: int = 1) -> Example:
    return Example(text, "x", id=f"q{row}", key=f"{text} {row}", row=row, contexts=contexts)


def retriever(k: int, strategy: Strategy = "auto", store: Store = STORE) -> Retriever:
    return Retriever(store, "text", k, RetrievalConfig(similarity="bm25", strategy=strategy))


@pytest.mark.parametrize("strategy", ["auto", "given"])
def test_the_rows_own_entries_come_in_their_order(strategy: str) -> None:
    retrieved = retriever(3, strategy).retrieve(
        [query("p4", "p0", "p2"), query("p1", row=2), query(row=3)], exclude_same_key=True
    )
    assert [[e.id for e in retrieved.examples(i)] for i in range(3)] == [["p4", "p0", "p2"], ["p1"], []]
    assert retrieved.indices.tolist()[1:] == [[1, -1, -1], [-1, -1, -1]]
    np.testing.assert_allclose(retrieved.scores, [[1, 1 / 2, 1 / 3], [1, 0, 0], [0, 0, 0]])
    assert [[e.id for e in retrieved.ranked().examples(i)] for i in range(2)] == [["p4", "p0", "p2"], ["p1"]]


def test_k_takes_the_first_of_them_and_a_repeated_one_counts_once() -> None:
    rows = [query("p4", "p0", "p2"), query("p3", "p3", "p1", row=2)]
    assert [e.id for e in retriever(2).retrieve(rows, exclude_same_key=False).examples(0)] == ["p4", "p0"]
    assert [e.id for e in retriever(2).retrieve(rows, exclude_same_key=False).examples(1)] == ["p3", "p1"]
    more = retriever(9, "given").retrieve(rows, exclude_same_key=False)  # than the store has
    assert (more.indices >= 0).sum(axis=1).tolist() == [3, 2] and more.k == 9


def test_entries_with_the_querys_own_key_are_left_out_where_that_is_asked_for() -> None:
    solved = [Example(f"text {i}", "A", id=f"e{i}", key=f"key {i % 2}") for i in range(4)]
    row = Example("text", "A", id="q", key="key 0", contexts=("e2", "e1", "e3"))
    tool = retriever(2, store=Store.of(solved))
    assert [e.id for e in tool.retrieve([row], exclude_same_key=True).examples(0)] == ["e1", "e3"]
    assert [e.id for e in tool.retrieve([row], exclude_same_key=False).examples(0)] == ["e2", "e1"]


@pytest.mark.parametrize(("row", "name"), [(7, "Row 7"), (0, "q0")])
def test_an_entry_that_the_store_does_not_have_names_its_row(row: int, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name}.*'p9'"):
        retriever(2).retrieve([query("p0"), query("p1", "p9", row=row)], exclude_same_key=False)


def test_rows_without_their_own_are_searched_for_unless_only_given_ones_count() -> None:
    searched = dataclasses.replace(query(text="what about f", row=2), contexts=None)
    retrieved = retriever(1).retrieve([query("p4"), searched], exclude_same_key=False)
    assert [retrieved.examples(i)[0].id for i in range(2)] == ["p4", "p5"]
    with pytest.raises(DataError, match="Row 2.*no entries of its own"):
        retriever(1, "given").retrieve([query("p4"), searched], exclude_same_key=False)


def test_a_search_may_be_asked_for_all_the_same() -> None:
    retrieved = retriever(1, "top").retrieve([query("p4", text="about f")], exclude_same_key=False)
    assert retrieved.examples(0)[0].id == "p5"


def test_a_long_list_of_them_is_not_searched_either() -> None:
    rows = [query(f"p{i % 6}", row=i + 1) for i in range(100)]
    retrieved = retriever(1).retrieve(rows, exclude_same_key=False)
    assert [retrieved.examples(i)[0].id for i in range(100)] == [f"p{i % 6}" for i in range(100)]
