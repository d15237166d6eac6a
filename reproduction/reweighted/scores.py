"""Scores of systems that answered questions, as plain data: what is measured, differences, and a table's cells."""

from __future__ import annotations

import dataclasses

from coldframe.config import Config
from coldframe.inference.intervals import Interval
from coldframe.reports.numbers import MetricInfo
from coldframe.tasks.text_metrics import TEXT_METRICS

WRITTEN = ("contains", "exact_match", "token_f1")  # of answers that were written, in percent

#: Everything that is measured on an answer.
METRICS = {
    **{name: MetricInfo(name, TEXT_METRICS[name].title, higher=True, decimals=1) for name in WRITTEN},
    "chosen": MetricInfo("chosen", "Right one the likeliest", higher=True, decimals=1),
    "choice_loss": MetricInfo("choice_loss", "Loss among answers", higher=False, decimals=3),
    "loss": MetricInfo("loss", "Loss of the right answer", higher=False, decimals=3),
}

PERCENT = (*WRITTEN, "chosen")

EFFECT = 2.0
"""Difference, in points, that the statement on power is about."""


@dataclasses.dataclass(frozen=True)
class Gap(Config):
    """A system minus another on the same questions.

    Args:
        interval: The mean difference.
        deviation: Standard deviation of one question's difference, averaged over seeds.
        needed: Questions that find a true difference of two points in 80 of 100 repetitions (two-sided, 5%), by that
            deviation; None where every question was answered alike, or for a loss.
    """

    section = "gap"

    interval: Interval
    deviation: float
    needed: int | None = None


@dataclasses.dataclass(frozen=True)
class Cell(Config):
    """A metric of a system on a set.

    Args:
        set: The set's name.
        system: The system's name.
        metric: A key of ``METRICS``, or what was measured otherwise.
        level: The score itself.
        gap: The system minus the base; None for the base, or where there is none.
        place: Of the gold passage, from 0, where only those rows count.
    """

    set: str
    system: str
    metric: str
    level: Interval
    gap: Gap | None = None
    place: int | None = None


@dataclasses.dataclass(frozen=True)
class Overall(Config):
    """The mean over all sets of a system's difference from another.

    Args:
        system: The one.
        against: The other.
        metric: A key of ``METRICS``.
        interval: The difference.
    """

    system: str
    against: str
    metric: str
    interval: Interval
