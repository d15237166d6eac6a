"""Whether a stated probability comes true as often as it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from coldframe.config import Config, check
from coldframe.inference.predictions import Predictions, same_rows
from coldframe.tasks.metrics import BINS


@dataclasses.dataclass(frozen=True)
class Bin(Config):
    """Predictions of all seeds whose confidence lies in one range: its mean, the share that is right, their number."""

    section = "reliability bin"

    confidence: float
    accuracy: float
    count: int


def reliability(runs: Sequence[Predictions], bins: int = BINS) -> tuple[Bin, ...]:
    """Reliability diagram of the predicted label; empty bins are left out.

    Bin b holds the predictions with confidence in ((b - 1) / bins, b / bins]. The expected calibration error
    is the mean of |accuracy - confidence| over the bins, weighted by their counts; of one
    run and with the usual number of bins it is the metric ``calibration_error``.

    Args:
        runs: One run per seed, on the same rows; their predictions are pooled.
        bins: Ranges of equal width between 0 and 1.
    """
    check(bins >= 1, "A reliability diagram needs at least one bin", got=bins)
    same_rows(runs)
    confidence = np.concatenate([run.probabilities.max(axis=1) for run in runs])
    right = np.concatenate([run.predicted == run.targets for run in runs])
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    members = [place == b for b in np.unique(place)]
    return tuple(Bin(float(confidence[own].mean()), float(right[own].mean()), int(own.sum())) for own in members)


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error of a reliability diagram, 0 to 1.

    Example:
        >>> round(calibration_error([Bin(0.6, 0.5, 10), Bin(0.9, 0.9, 30)]), 3)
        0.025
    """
    total = sum(bin.count for bin in bins)
    return sum(bin.count * abs(bin.accuracy - bin.confidence) for bin in bins) / total
