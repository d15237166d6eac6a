from __future__ import annotations

import numpy as np
import pytest

from coldframe.errors import ConfigError, DataError
from coldframe.evaluation.controls import (
    ControlData,
    all_controls,
    logistic_regression,
    nearest_neighbours,
    random_forest,
)
from coldframe.retrieval.store import Retrieved, Store
from coldframe.tasks.task import Example, Schema

SCHEMA = Schema("made-up", labels=("a", "b", "c"), words=("A", "B", "C"), metric="accuracy")


def example(i, target, part="train"):
    return Example(text=f"{part} {i}", target=target, id=f"{part}{i:03d}", key=f"{part}{i}")


def voting(targets, indices, scores):
    store = Store.of([example(i, target) for i, target in enumerate(targets)])
    test = [example(i, "a", "test") for i in range(len(indices))]
    retrieved = Retrieved(store, np.array(indices, np.int64), np.array(scores, np.float32))
    features = (
        np.zeros((len(targets), 1), np.float32),
        np.zeros((0, 1), np.float32),
        np.zeros((len(test), 1), np.float32),
    )
    return ControlData(SCHEMA, store.examples, [], test, features, retrieved)


def test_votes_are_shares():
    data = voting("aabbc", [[0, 1, 2], [4, 2, 3]], [[0.9, 0.5, 0.1], [0.9, 0.2, 0.2]])
    run = nearest_neighbours(data, 3)
    assert run.probabilities == pytest.approx(np.array([[2, 1, 0], [0, 2, 1]]) / 3)
    assert run.neighbours.tolist() == [["train000", "train001", "train002"], ["train004", "train002", "train003"]]
    weighted = nearest_neighbours(data, 3, weighted=True)
    assert weighted.probabilities[0] == pytest.approx([14 / 15, 1 / 15, 0])
    assert weighted.probabilities[1] == pytest.approx([0, 4 / 13, 9 / 13])
    assert run.predicted.tolist() == [0, 1] and weighted.predicted.tolist() == [0, 2]


def test_a_tie_goes_to_the_nearest():
    data = voting("aabbc", [[2, 0, 1, 3], [4, 2, 0, 1]], [[0.9, 0.8, 0.7, 0.6]] * 2)
    run = nearest_neighbours(data, 4)
    assert run.predicted.tolist() == [1, 0]  # b and a tie, b is nearest; c is nearest of all but a has two votes
    assert nearest_neighbours(data, 2).predicted.tolist() == [1, 2]
    assert run.probabilities[0] == pytest.approx([0.5, 0.5, 0], abs=1e-8)


def test_without_neighbours_or_similarity():
    data = voting("aabbb", [[-1, -1], [0, 2], [1, -1]], [[0, 0], [0, 0], [0.5, 0]])
    for weighted in (False, True):
        run = nearest_neighbours(data, 2, weighted=weighted)
        assert run.probabilities == pytest.approx(np.array([[0.4, 0.6, 0], [0.5, 0.5, 0], [1, 0, 0]]), abs=1e-8)
        assert run.predicted.tolist() == [1, 0, 0]
        assert run.neighbours[0].tolist() == ["", ""]


def test_negative_similarities_do_not_vote_against():
    data = voting("ab", [[0, 1]], [[0.5, -0.5]])
    assert nearest_neighbours(data, 2, weighted=True).probabilities[0] == pytest.approx([1, 0, 0])


def test_k_must_have_been_retrieved():
    with pytest.raises(ConfigError, match="among the neighbours"):
        nearest_neighbours(voting("ab", [[0, 1]], [[1, 1]]), 3)


def blobs(seed=0, n=90, missing=False):
    """Three classes around three corners; the test rows as well."""
    rng = np.random.default_rng(seed)
    parts, features = [], []
    for part, rows in (("train", n), ("val", 30), ("test", 60)):
        classes = rng.integers(0, 2 if missing and part != "test" else 3, rows)
        features.append((np.eye(3)[classes] + rng.normal(scale=0.25, size=(rows, 3))).astype(np.float32))
        parts.append([example(i, "abc"[c], part) for i, c in enumerate(classes)])
    store = Store.of(parts[0])
    similarity = features[2] @ features[0].T
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :5]
    retrieved = Retrieved(store, nearest, np.take_along_axis(similarity, nearest, axis=1))
    return ControlData(SCHEMA, *parts, tuple(features), retrieved)


@pytest.mark.slow
def test_all_controls_learn():
    runs = all_controls(blobs(), k=5, seeds=(0, 1))
    assert list(runs) == ["1-NN vote", "5-NN vote", "5-NN vote (weighted)", "logistic regression", "random forest"]
    assert [len(run) for run in runs.values()] == [1, 1, 1, 1, 2]
    for run in runs.values():
        assert np.mean(run[0].predicted == run[0].targets) > 0.85
    assert not np.array_equal(runs["random forest"][0].probabilities, runs["random forest"][1].probabilities)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_forest():
    first, second = (random_forest(blobs(), seed=3) for _ in range(2))
    assert np.array_equal(first.probabilities, second.probabilities)


def test_a_label_that_training_lacks_gets_zero():
    run = logistic_regression(blobs(missing=True))
    assert np.all(run.probabilities[:, 2] == 0) and np.allclose(run.probabilities.sum(axis=1), 1)


@pytest.mark.slow
def test_settings_are_chosen_on_validation(monkeypatch):
    """Turned-round validation labels must turn the choice round; the test labels must not matter."""
    data = blobs()
    chosen = []
    monkeypatch.setattr("coldframe.evaluation.controls.LEAVES", (1, 60))
    for shift in (0, 1):
        turned = [example(i, "abc"[("abc".index(e.target) + shift) % 3], "val") for i, e in enumerate(data.validation)]
        changed = ControlData(SCHEMA, data.train, turned, data.test, data.features, data.retrieved)
        chosen.append(random_forest(changed).probabilities)
    assert not np.array_equal(*chosen)


def test_no_validation_rows_means_defaults():
    data = blobs()
    features = (data.features[0], data.features[1][:0], data.features[2])
    bare = ControlData(SCHEMA, data.train, [], data.test, features, data.retrieved)
    run = logistic_regression(bare)
    assert np.mean(run.predicted == run.targets) > 0.85


def test_one_class_and_wrong_shapes_are_told():
    with pytest.raises(DataError, match="at least two labels"):
        logistic_regression(voting("aaa", [[0]], [[1.0]]))
    data = blobs()
    with pytest.raises(DataError, match="do not belong"):
        ControlData(SCHEMA, data.train, data.validation, data.test, data.features[::-1], data.retrieved)
