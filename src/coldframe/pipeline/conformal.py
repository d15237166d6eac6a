"""Sets of labels that hold the right one as often as is wanted, whatever method gave the probabilities."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from coldframe.config import check
from coldframe.errors import ConfigError, DataError
from coldframe.inference.intervals import Interval, wilson
from coldframe.inference.predictions import Predictions
from coldframe.pipeline.label_bias import outcome_of
from coldframe.tasks.corpora import spread
from coldframe.tasks.task import Example

if TYPE_CHECKING:
    from coldframe.pipeline.pipeline import Pipeline

CALIBRATION_ROWS = 500
"""Most rows whose scores are kept: which they are moves a coverage of 90% by 1.3 points (one standard deviation)."""

_DIGITS = 6  # of all scores: votes that are equal but for rounding must tie


@dataclasses.dataclass(frozen=True)
class Conformal:
    """Split conformal prediction: scores of labelled rows that turn probabilities into sets of labels.

    ``s(x, y) = 1 - p(y | x)``, with ``q`` the ``ceil((n + 1) c)``-th smallest of ``s(x_1, y_1) .. s(x_n, y_n)``::

        C(x) = { y : s(x, y) <= q },   P(y in C(x)) >= c

    By class ``q_y`` is taken from the rows of label ``y`` alone, and ``P(y in C(x) | y) >= c``. Both hold on average
    over draws of the n rows, for a new row that is exchangeable with them, and for whatever gave the probabilities,
    provided that it did not learn these rows.

    Papers: Vovk et al. 2005; the score: Sadinle et al. 2019, arXiv 1609.00451; by class: Vovk 2012, arXiv 1209.2673.

    Args:
        scores: ``s`` of the rows of each label, in ``[0, 1]``; labels in the order of the schema's.

    Raises:
        DataError: A score is out of range.

    Example:
        >>> conformal = Conformal({"No": [0.1, 0.2], "Yes": [0.3, 0.6]})
        >>> limits = conformal.limits(0.8)  # the fourth of four
        >>> label_sets(["No", "Yes"], np.array([[0.5, 0.5], [0.9, 0.1]]), limits)
        [('No', 'Yes'), ('No',)]
    """

    scores: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        for label, scores in self.scores.items():
            if wrong := [score for score in scores if not 0 <= score <= 1]:
                raise DataError(f"A calibration score of {label!r} is out of range", got=wrong[0], expected="0 to 1")

    @classmethod
    def of(cls, pipeline: Pipeline, rows: Sequence[Example]) -> Self:
        """The scores of rows, of up to 500 spread over their order.

        Args:
            pipeline: Of a classification.
            rows: Rows that it did not learn. They may stand in the store: none retrieves itself.

        Cost:
            Each row is read once.
        """
        rows, labels = spread(rows, CALIBRATION_ROWS), pipeline.schema.labels
        targets = np.array(pipeline.schema.targets(rows))
        scores = _scores(outcome_of(pipeline, rows).probabilities)
        return cls({label: sorted(scores[targets == i, i].tolist()) for i, label in enumerate(labels)})

    def limits(self, coverage: float, by_class: bool = False) -> NDArray[np.float64]:
        """``q`` of each label, ``[labels]``.

        Args:
            coverage: ``c``, between 0 and 1: how often the right label is to be in the set.
            by_class: For each label by itself.

        Raises:
            ConfigError: The coverage is out of range, or there are too few rows: with fewer than ``1 / (1 - c) - 1``
                every label would be in every set.
        """
        check(0 < coverage < 1, "The coverage is out of range", got=coverage, expected="between 0 and 1, such as 0.9")
        needed = math.ceil(round(1 / (1 - coverage), 9)) - 1  # rounded, as 1 / (1 - 0.9) is a little above 10
        pooled = [score for scores in self.scores.values() for score in scores]
        limits = []
        for label, scores in self.scores.items():
            used = sorted(scores if by_class else pooled)
            if len(used) < needed:
                rows = f"validation rows of {label!r}" if by_class else "validation rows"
                raise ConfigError(
                    f"There are too few {rows} for a coverage of {coverage:g}",
                    got=len(used),
                    expected=f"at least {needed}",
                    fix="Ask for less, or fit again with more of them (--validation-size).",
                )
            limits.append(used[math.ceil(round((len(used) + 1) * coverage, 9)) - 1])
        return np.array(limits)


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How the sets of labelled rows turned out; all are shares of 1, intervals are Wilson's (95%).

    Attributes:
        right: Of rows whose set holds the right label.
        by_label: The same of the rows of each label that has any.
        size: Mean number of labels in a set.
        single: Share of rows with exactly one label: the others abstain.
        single_right: Of those with one label, how often it is the right one.
        empty: Share of rows without a label: none is as likely as right labels were.
    """

    right: Interval
    by_label: Mapping[str, Interval]
    size: float
    single: float
    single_right: Interval
    empty: float

    @classmethod
    def of(cls, predictions: Predictions, limits: NDArray[np.float64]) -> Self:
        """Of predictions with their targets, by the limits of :meth:`Conformal.limits`."""
        sets, targets = _within(predictions.probabilities, limits), predictions.targets
        right, sizes = sets[np.arange(len(sets)), targets], sets.sum(axis=1)
        return cls(
            right=_rate(right),
            by_label={label: _rate(right[targets == i]) for i, label in enumerate(predictions.labels) if i in targets},
            size=float(sizes.mean()),
            single=float((sizes == 1).mean()),
            single_right=_rate(right[sizes == 1]),
            empty=float((sizes == 0).mean()),
        )


def label_sets(
    labels: Sequence[str], probabilities: NDArray[np.float64], limits: NDArray[np.float64]
) -> list[tuple[str, ...]]:
    """The labels of each row that are as likely as right labels were.

    Args:
        labels: Their names.
        probabilities: ``[n, labels]``.
        limits: ``[labels]``, see :meth:`Conformal.limits`.
    """
    return [
        tuple(label for label, member in zip(labels, row, strict=True) if member)
        for row in _within(probabilities, limits)
    ]


def limits_of(pipeline: Pipeline, coverage: float, by_class: bool = False) -> NDArray[np.float64]:
    """The limits of a pipeline's calibration rows, see :meth:`Conformal.limits`.

    Raises:
        ConfigError: It writes its answers, it has no calibration rows, or too few.
    """
    if pipeline.schema.kind != "classification":
        raise ConfigError("A generation task has no labels to make sets of", fix="Leave out the coverage.")
    if pipeline.conformal is None:
        raise ConfigError(
            "There are no calibration scores: the artifact is an older one or had no validation rows, or its method, "
            "store or correction has changed since",
            fix="Fit again with validation rows, or call pipeline.calibrate_sets(rows) with rows that are new to it.",
        )
    return pipeline.conformal.limits(coverage, by_class)


def _scores(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(1 - probabilities, _DIGITS).clip(0, 1)


def _within(probabilities: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.bool_]:
    return _scores(probabilities) <= limits


def _rate(hits: NDArray[np.bool_]) -> Interval:
    """A share of rows with its interval; NaN where there are none."""
    if not len(hits):
        return Interval(math.nan, math.nan, math.nan, n=0)
    return Interval(float(hits.mean()), *wilson(int(hits.sum()), len(hits)), n=len(hits))
