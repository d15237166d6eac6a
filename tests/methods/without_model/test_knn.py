"""The neighbours' vote: shares, ties, weights, and neighbours that are not there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coldframe.errors import ConfigError
from coldframe.frozen.no_model import NoModel
from coldframe.methods.config import MethodContext
from coldframe.methods.without_model.knn import KNN
from coldframe.retrieval.store import Retrieved, Store
from coldframe.tasks.task import Example, Schema

SCHEMA = Schema("made-up", labels=("a", "b", "c"), words=("A", "B", "C"), metric="accuracy")


def shares(targets: str, indices: Any, scores: Any, **settings: Any) -> NDArray[np.float64]:
    """Probabilities where the store has one row for each target."""
    store = Store.of([Example(f"row {i}", y, f"row-{i:03d}", f"row {i}") for i, y in enumerate(targets)])
    retrieved = Retrieved(store, np.array(indices, np.int64), np.array(scores, np.float32))
    method = KNN(k=retrieved.k, **settings).setup(MethodContext(NoModel(), SCHEMA))
    scored = method.condition(["x"] * len(retrieved), retrieved).scores
    assert scored is not None
    return scored.softmax(-1).numpy()


def test_votes_are_shares() -> None:
    near = [[0, 1, 2], [4, 2, 3]], [[0.9, 0.5, 0.1], [0.9, 0.2, 0.2]]
    assert shares("aabbc", *near) == pytest.approx(np.array([[2, 1, 0], [0, 2, 1]]) / 3)
    weighted = shares("aabbc", *near, weights="similarity")
    assert weighted == pytest.approx(np.array([[14 / 15, 1 / 15, 0], [0, 4 / 13, 9 / 13]]))


def test_a_temperature_weighs_by_the_exponential() -> None:
    near = [[0, 1, 2]], [[0.9, 0.5, 0.1]]
    weights = np.exp(np.array([0.9, 0.5, 0.1]) / 0.2)
    expected = [[weights[:2].sum() / weights.sum(), weights[2] / weights.sum(), 0]]
    assert shares("aab", *near, weights="temperature", temperature=0.2) == pytest.approx(np.array(expected))
    # Similarities of any size: the exponent never overflows, and the nearest alone is left.
    assert shares("ab", [[0, 1]], [[90.0, 80.0]], weights="temperature", temperature=0.01).tolist() == [[1, 0, 0]]


def test_a_tie_goes_to_the_nearest() -> None:
    near = [[2, 0, 1, 3], [4, 2, 0, 1]], [[0.9, 0.8, 0.7, 0.6]] * 2
    four = shares("aabbc", *near)
    assert four.argmax(1).tolist() == [1, 0]  # b and a tie, b is nearest; c is nearest of all but a has two votes
    assert four[0] == pytest.approx([0.5, 0.5, 0], abs=1e-8)
    assert shares("aabbc", [[2, 0], [4, 2]], [[0.9, 0.8]] * 2).argmax(1).tolist() == [1, 2]


@pytest.mark.parametrize("weights", ["uniform", "similarity"])
def test_without_neighbours_or_similarity(weights: str) -> None:
    votes = shares("aabbb", [[-1, -1], [0, 2], [1, -1]], [[0, 0], [0, 0], [0.5, 0]], weights=weights)
    assert votes == pytest.approx(np.array([[0.4, 0.6, 0], [0.5, 0.5, 0], [1, 0, 0]]), abs=1e-8)
    assert votes.argmax(1).tolist() == [1, 0, 0]


def test_negative_similarities_do_not_vote_against() -> None:
    assert shares("ab", [[0, 1]], [[0.5, -0.5]], weights="similarity")[0] == pytest.approx([1, 0, 0])


def test_k_is_at_least_one() -> None:
    with pytest.raises(ConfigError, match="k must be at least 1"):
        KNN(k=0)
