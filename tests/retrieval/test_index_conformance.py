"""One suite for every index backend: ties, 0/0, padding, exclusion, empty stores and empty query sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.retrieval.backends import BACKENDS, NAMES, Backend

RULES = settings(max_examples=30, deadline=None)


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


def naive_search(
    backend: Backend, store: list[Any], query: Any, k: int, out: set[int]
) -> tuple[list[int], list[float]]:
    """Every row by (-similarity, position), written as a loop."""
    # Rounded to float32, where the library's ties are decided; a hair's breadth apart counts as equal.
    scored = [(-round(backend.similarity(query, row, store), 6), i) for i, row in enumerate(store) if i not in out]
    best = sorted((s, i) for s, i in scored if s < 0 or not backend.needs_overlap)[:k]
    pad = k - len(best)
    return [i for _, i in best] + [-1] * pad, [-s for s, _ in best] + [0.0] * pad


@pytest.mark.parametrize("name", NAMES)
@RULES
@given(seed=st.integers(0, 10**6), n=st.integers(0, 40), m=st.integers(0, 5), k=st.integers(0, 12))
def test_search_is_the_sorted_list_of_all_similarities(name: str, seed: int, n: int, m: int, k: int) -> None:
    backend, rng = BACKENDS[name], np.random.default_rng(seed)
    store = [backend.thing(rng) for _ in range(n)]
    queries = [backend.thing(rng) for _ in range(m)]
    exclude = [rng.choice(n, rng.integers(0, min(n, 4)), replace=False) if n else np.empty(0, int) for _ in queries]
    indices, scores = backend.index(store).search(backend.pack(queries), k, exclude)
    assert indices.shape == scores.shape == (m, k)
    assert (indices.dtype, scores.dtype) == (np.int64, np.float32)
    for query, out, row, score in zip(queries, exclude, indices, scores, strict=True):
        expected, values = naive_search(backend, store, query, k, set(out.tolist()))
        assert row.tolist() == expected
        np.testing.assert_allclose(score, values, atol=2e-6)


def test_equal_rows_come_in_store_order(backend: Backend) -> None:
    index = backend.index([backend.empty, *[backend.full] * 6, backend.empty])
    indices, scores = index.search(backend.pack([backend.full]), 4)
    assert indices.tolist() == [[1, 2, 3, 4]]
    assert len(set(scores.ravel().tolist())) == 1


def test_equal_rows_tie_to_the_bit_wherever_they_lie_in_the_store(backend: Backend) -> None:
    """Rounding must not depend on the block that a row falls into."""
    rng = np.random.default_rng(2)
    store = [backend.thing(rng) for _ in range(301)]
    places = [3, 64, 150, 200, 299, 300]
    for place in places:
        store[place] = store[3]
    index = backend.index(store)
    scores = index.score(backend.pack(store[:9]), np.tile(places, (9, 1)))
    assert (scores == scores[:, :1]).all()


def test_two_empty_things_have_similarity_zero(backend: Backend) -> None:
    index = backend.index([backend.empty, backend.empty])
    assert index.score(backend.pack([backend.empty]), np.array([[0, 1]])).tolist() == [[0.0, 0.0]]
    _, scores = index.search(backend.pack([backend.empty]), 2)
    assert scores.tolist() == [[0.0, 0.0]]


def test_rows_without_any_similarity_are_neighbours_unless_words_must_be_shared(backend: Backend) -> None:
    indices, _ = backend.index([backend.empty] * 5).search(backend.pack([backend.empty]), 3)
    assert indices.tolist() == [[-1, -1, -1] if backend.needs_overlap else [0, 1, 2]]


def test_more_than_there_are_is_padded(backend: Backend) -> None:
    indices, scores = backend.index([backend.full] * 4).search(backend.pack([backend.full]), 7, [np.array([2])])
    assert sorted(indices[0, :3].tolist()) == [0, 1, 3]
    assert indices[0, 3:].tolist() == [-1] * 4
    assert scores[0, 3:].tolist() == [0.0] * 4


def test_an_empty_store_and_an_empty_query_set(backend: Backend) -> None:
    empty = backend.index([])
    assert len(empty) == 0
    assert empty.search(backend.pack([backend.empty]), 2)[0].tolist() == [[-1, -1]]
    store = backend.index([backend.empty] * 3)
    assert store.search(backend.pack([]), 2)[0].shape == (0, 2)
    assert store.search(backend.pack([]), 2, [])[1].shape == (0, 2)


def test_excluding_everything_leaves_nothing(backend: Backend) -> None:
    indices, _ = backend.index([backend.empty] * 3).search(backend.pack([backend.empty]), 2, [np.arange(3)])
    assert indices.tolist() == [[-1, -1]]


def test_the_result_does_not_depend_on_the_batch(backend: Backend) -> None:
    rng = np.random.default_rng(4)
    store, queries = ([backend.thing(rng) for _ in range(n)] for n in (200, 20))
    index = backend.index(store)
    indices, scores = index.search(backend.pack(queries), 5)
    for i, query in enumerate(queries):
        alone = index.search(backend.pack([query]), 5)
        assert alone[0].tolist() == indices[i : i + 1].tolist()
        assert alone[1].tolist() == scores[i : i + 1].tolist()


def test_score_agrees_with_search(backend: Backend) -> None:
    rng = np.random.default_rng(5)
    store = [backend.thing(rng) for _ in range(200)]
    index = backend.index(store)
    indices, scores = index.search(backend.pack(store[:10]), 4)
    indices[0, 3] = -1
    scores[0, 3] = 0
    assert index.score(backend.pack(store[:10]), indices).tolist() == scores.tolist()


def test_searching_changes_nothing(backend: Backend) -> None:
    rng = np.random.default_rng(6)
    store = [backend.thing(rng) for _ in range(30)]
    index, queries = backend.index(store), backend.pack(store[:5])
    first = index.search(queries, 5, [np.array([i]) for i in range(5)])
    index.search(queries, 5)
    second = index.search(queries, 5, [np.array([i]) for i in range(5)])
    assert first[0].tolist() == second[0].tolist()
