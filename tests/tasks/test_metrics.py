"""Classification metrics against scikit-learn, and resamples against copying rows."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldframe.errors import DataError
from coldframe.tasks.metrics import METRICS

sklearn = pytest.importorskip("sklearn.metrics")


def case(seed: int, n: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Random targets, every label among them, and probabilities coarse enough to tie."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(labels), rng.integers(0, labels, n - labels)])
    p = rng.integers(1, 6, (n, labels)).astype(float)
    p[np.arange(n), y] += rng.random(n) < 0.5
    return y, p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("labels", [2, 3, 6])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(labels: int, seed: int) -> None:
    y, p = case(seed, 80, labels)
    said = p.argmax(axis=1)
    scores = p[:, 1] if labels == 2 else p
    expected = {
        "accuracy": 100 * sklearn.accuracy_score(y, said),
        "balanced_accuracy": 100 * sklearn.balanced_accuracy_score(y, said),
        "mcc": sklearn.matthews_corrcoef(y, said),
        "auroc": 100 * sklearn.roc_auc_score(y, scores, multi_class="ovr", average="macro"),
        "log_loss": sklearn.log_loss(y, p),
        "brier": 100 * sklearn.brier_score_loss(y, scores, labels=range(labels), scale_by_half=True),
    }
    for name, value in expected.items():
        assert METRICS[name].score(y, p, 1) == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("labels", [2, 4])
def test_effective_accuracy_is_the_geometric_mean_of_recalls(labels: int) -> None:
    y, p = case(3, 60, labels)
    recalls = sklearn.recall_score(y, p.argmax(axis=1), average=None)
    assert METRICS["effective_accuracy"].score(y, p) == pytest.approx(100 * math.prod(recalls) ** (1 / labels))


def test_effective_accuracy_of_a_constant_is_0_and_of_the_paper_by_hand() -> None:
    y = [1] * 20 + [0] * 80
    constant = np.tile([0.9, 0.1], (100, 1))
    assert METRICS["effective_accuracy"].score(y, constant, 1) == 0
    said = [1] * 18 + [0] * 2 + [0] * 80  # TPR 0.90, TNR 1.00
    assert METRICS["effective_accuracy"].score(y, np.eye(2)[said], 1) == pytest.approx(94.87, abs=0.005)


def test_calibration_error_by_hand() -> None:
    # Two rows in one bin: confidence 0.8 each, one right: gap 0.3. One row in another: 0.6, right: gap 0.4.
    p = [[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]]
    assert METRICS["calibration_error"].score([0, 1, 1], p) == pytest.approx(100 * (2 * 0.3 + 0.4) / 3)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("labels", [2, 3])
def test_weights_are_copies(name: str, labels: int) -> None:
    """A row of weight 3 counts like the row three times, weight 0 like no row."""
    y, p = case(7, 40, labels)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=20)
    many = METRICS[name].score_many(y, p, 1, weights)
    for row, score in zip(weights, many, strict=True):
        drawn = np.repeat(np.arange(len(y)), row)
        assert METRICS[name].score(y[drawn], p[drawn], 1) == pytest.approx(score, abs=1e-9)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(6, 40))
def test_within_range(seed: int, labels: int, n: int) -> None:
    y, p = case(seed, n, labels)
    for metric in METRICS.values():
        assert metric.range[0] - 1e-9 <= metric.score(y, p) <= metric.range[1] + 1e-9


def test_one_class_is_undefined_not_perfect() -> None:
    p = np.eye(2)[[1, 1, 1]]
    for name in ("effective_accuracy", "balanced_accuracy", "auroc"):
        assert math.isnan(METRICS[name].score([1, 1, 1], p, 1)), name


@pytest.mark.slow
def test_10000_resamples_of_779_rows_take_well_under_a_second() -> None:
    y, p = case(0, 779, 2)
    weights = np.random.default_rng(0).multinomial(779, np.full(779, 1 / 779), size=10_000).astype(np.float64)
    for name in ("effective_accuracy", "accuracy", "balanced_accuracy", "mcc"):
        start = time.process_time()
        METRICS[name].score_many(y, p, 1, weights)
        assert time.process_time() - start < 0.5, name


@pytest.mark.parametrize(
    ("targets", "probabilities"),
    [([0, 1], [[0.5, 0.5]]), ([], np.empty((0, 2))), ([0, 2], [[0.5, 0.5]] * 2), ([0, 1], [[0.5, 0.5], [np.nan, 1]])],
)
def test_bad_input_is_told(targets: list[int], probabilities: object) -> None:
    with pytest.raises(DataError):
        METRICS["accuracy"].score(targets, probabilities)  # type: ignore[arg-type]
