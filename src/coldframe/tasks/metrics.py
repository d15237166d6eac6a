"""Scores of classifications, all in a form that 10,000 bootstrap resamples cost as little as one.

Every metric is a function of row weights: how often a row was drawn. One resample is one row of a
``[resamples, n]`` weight matrix, the plain score is the case of a single row of ones.

Units: all are in percent (0 to 100), as the papers print them, but MCC (-1 to 1) and log loss (nats).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coldframe.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Weighted = Callable[[Ints, Floats, int | None, Floats], Floats]

BINS = 15
"""Equal-width confidence bins of the calibration error."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A score of class probabilities.

    Args:
        name: As on the command line and in ``METRICS``.
        title: As printed.
        function: (targets, probabilities, positive, weights) to one score for each row of weights.
        range: Smallest and largest value.
        greater_is_better: False for errors and losses.
    """

    name: str
    title: str
    function: Weighted
    range: tuple[float, float] = (0.0, 100.0)
    greater_is_better: bool = True

    @property
    def sign(self) -> int:
        """1 where more is better, -1 for errors and losses."""
        return 1 if self.greater_is_better else -1

    def score(self, targets: ArrayLike, probabilities: ArrayLike, positive: int | None = None) -> float:
        """The score on all rows; NaN where it is undefined (fewer than two classes among the targets).

        Args:
            targets: Label positions, ``[n]``.
            probabilities: Rows that sum to 1, ``[n, labels]``.
            positive: Position of the positive label; matters only where two classes are not alike.

        Example:
            >>> METRICS["accuracy"].score([0, 1, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
            75.0
        """
        ones = np.ones((1, len(np.asarray(targets))))
        return float(self.score_many(targets, probabilities, positive, ones)[0])

    def score_many(
        self, targets: ArrayLike, probabilities: ArrayLike, positive: int | None, weights: ArrayLike
    ) -> Floats:
        """The score under each of many weightings of the rows.

        Args:
            targets: Label positions, ``[n]``.
            probabilities: ``[n, labels]``.
            positive: As in :meth:`score`.
            weights: How often each row counts, ``[resamples, n]``.

        Returns:
            ``[resamples]``.

        Raises:
            DataError: If shapes or values do not fit together.
        """
        y = np.asarray(targets, dtype=np.int64)
        p = np.asarray(probabilities, dtype=np.float64)
        w = np.asarray(weights, dtype=np.float64)
        if y.ndim != 1 or p.ndim != 2 or w.ndim != 2 or len(p) != len(y) or w.shape[1] != len(y) or not len(y):
            shapes = f"targets {y.shape}, probabilities {p.shape}, weights {w.shape}"
            raise DataError("Scores need matching shapes", got=shapes, expected="[n], [n, labels], [resamples, n]")
        if not np.isfinite(p).all():
            row = int(np.flatnonzero(~np.isfinite(p).all(1))[0])
            raise DataError(f"Probabilities are not finite (row {row})", got=p[row].tolist())
        if y.min() < 0 or y.max() >= p.shape[1]:
            raise DataError("A target is no label position", got=int(y.max()), expected=f"0 to {p.shape[1] - 1}")
        return self.function(y, p, positive, w)


@dataclasses.dataclass(frozen=True)
class _Counts:
    """Confusion counts under each weighting, all ``[resamples, labels]``: right, actual, predicted."""

    right: Floats
    actual: Floats
    predicted: Floats

    @classmethod
    def of(cls, y: Ints, p: Floats, w: Floats) -> _Counts:
        classes = np.arange(p.shape[1])
        actual = (y[:, None] == classes).astype(np.float64)
        predicted = (p.argmax(axis=1)[:, None] == classes).astype(np.float64)
        return cls(w @ (actual * predicted), w @ actual, w @ predicted)

    def recalls(self) -> Floats:
        """By class; NaN for a class that does not occur, and for all if fewer than two occur."""
        recalls = _divide(self.right, self.actual)
        recalls[(self.actual > 0).sum(axis=1) < 2] = np.nan
        return recalls


def _accuracy(y: Ints, p: Floats, positive: int | None, w: Floats) -> Floats:
    counts = _Counts.of(y, p, w)
    return 100 * _divide(counts.right.sum(axis=1), counts.actual.sum(axis=1))


def _balanced_accuracy(y: Ints, p: Floats, positive: int | None, w: Floats) -> Floats:
    recalls = _Counts.of(y, p, w).recalls()
    return 100 * _divide(np.nansum(recalls, axis=1), (~np.isnan(recalls)).sum(axis=1))


def _effective_accuracy(y: Ints, p: Floats, positive: int | None, w: Floats) -> Floats:
    recalls = _Counts.of(y, p, w).recalls()
    present = (~np.isnan(recalls)).sum(axis=1)
    product = np.where(np.isnan(recalls), 1.0, recalls).prod(axis=1)
    return np.asarray(100 * np.where(present > 0, product, np.nan) ** (1 / np.maximum(present, 1)))


def _mcc(y: Ints, p: Floats, positive: int | None, w: Floats) -> Floats:
    counts = _Counts.of(y, p, w)
    right, n = counts.right.sum(axis=1), counts.actual.sum(axis=1)
    above = right * n - (counts.actual * counts.predicted).sum(axis=1)
    below = (n**2 - (counts.predicted**2).sum(axis=1)) * (n**2 - (counts.actual**2).sum(axis=1))
    return np.where(below > 0, above / np.sqrt(np.where(below > 0, below, 1)), 0.0)


def _auroc(y: Ints, p: Floats, positive: int | None, w: Floats) -> Floats:
    if p.shape[1] == 2:
        return 100 * _one_auroc(y == 1, p[:, 1], w)
    by_class = np.stack([_one_auroc(y == c, p[:, c], w) for c in range(p.shape[1])], axis=1)
    return 100 * _divide(np.nansum(by_class, axis=1), (~np.isnan(by_class)).sum(axis=1))


def _one_auroc(is_positive: NDArray[np.bool_], scores: Floats, w: Floats) -> Floats:
    """Share of (positive, negative) pairs in the right order, ties counted half (Mann-Whitney)."""
    order = np.argsort(scores, kind="stable")
    starts = np.unique(scores[order], return_index=True)[1]
    flags, weights = is_positive[order], w[:, order]
    above = np.add.reduceat(weights * flags, starts, axis=1)  # by distinct score
    below = np.add.reduceat(weights * ~flags, starts, axis=1)
    up = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
    return _divide(up, above.sum(axis=1) * below.sum(axis=1))


def _calibration_error(y: Ints, p: Floats, positive: int | None, w: Floats) -> Floats:
    confidence, hit = p.max(axis=1), p.argmax(axis=1) == y
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gap = np.zeros((len(y), BINS))
    gap[np.arange(len(y)), bins] = confidence - hit
    return 100 * _divide(np.abs(w @ gap).sum(axis=1), w.sum(axis=1))


def _brier(y: Ints, p: Floats, positive: int | None, w: Floats) -> Floats:
    half_squares = ((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1) / 2
    return 100 * _divide(w @ half_squares, w.sum(axis=1))


def _log_loss(y: Ints, p: Floats, positive: int | None, w: Floats) -> Floats:
    likelihood = np.clip(p[np.arange(len(y)), y], np.finfo(np.float64).eps, 1.0)
    return _divide(w @ -np.log(likelihood), w.sum(axis=1))


def _divide(above: Floats, below: Floats | Ints) -> Floats:
    """Quotient; NaN where the denominator is 0."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("effective_accuracy", "Effective accuracy", _effective_accuracy),
        Metric("accuracy", "Accuracy", _accuracy),
        Metric("balanced_accuracy", "Balanced accuracy", _balanced_accuracy),
        Metric("mcc", "MCC", _mcc, (-1.0, 1.0)),
        Metric("auroc", "AUROC", _auroc),
        Metric("calibration_error", "Calibration error", _calibration_error, greater_is_better=False),
        Metric("brier", "Brier score", _brier, greater_is_better=False),
        Metric("log_loss", "Log loss", _log_loss, (0.0, float("inf")), greater_is_better=False),
    )
}
"""All classification metrics by name.

- ``effective_accuracy``: 100 * sqrt(TPR * TNR); a constant prediction gets 0, a coin 50. With more than two
  labels it is the geometric mean of the recalls, of which the first is the case of two.
- ``accuracy``; ``balanced_accuracy`` (mean of the recalls); ``mcc`` (Matthews; Gorodkin's for more labels).
- ``auroc``: area under the ROC curve; with more than two labels the mean of one-against-rest.
- ``calibration_error``: expected gap between confidence and accuracy of the chosen label, 15 equal bins.
- ``brier``: half the squared distance to the truth; ``log_loss``: negative log-likelihood in nats.

Recalls are taken over the labels that occur in the (re)sample. A prediction is the first largest probability.
"""
