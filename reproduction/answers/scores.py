"""How well systems answer the same questions, and how sure their differences are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldframe.inference.intervals import RESAMPLES, Interval, Statistic, interval
from coldframe.tasks.text_metrics import TEXT_METRICS
from reproduction.questions import Question
from reproduction.reweighted.scores import EFFECT, WRITTEN, Gap

Floats = NDArray[np.float64]

_NORMAL = NormalDist()


def row_scores(question: Question, row: Mapping[str, Any]) -> dict[str, float]:
    """All that one answer scores: percents for the written text and for the choice, nats for losses.

    The choice is between the right answer ``a_0`` and wrong ones, ``-log p(a_0 | prompt) / sum_i p(a_i | prompt)``. How
    likely it is that the model begins with a bare answer at all, and not with a sentence, has no part in it.

    Args:
        question: What was asked.
        row: With ``text``, ``loss`` and perhaps ``among``, any of which may be None.
    """
    values = {}
    if row["text"] is not None:
        for name in WRITTEN:
            score = TEXT_METRICS[name].statistics([row["text"]], [question.answers])[0, 0]
            values[name] = 100 * float(score)
    if row["loss"] is not None:
        values["loss"] = float(row["loss"])
    if row.get("among") is not None:
        among = np.array(row["among"])
        values["chosen"] = 100.0 * bool(among[0] > among[1:].max())
        values["choice_loss"] = float(np.logaddexp.reduce(among) - among[0])
    return values


def by_group(questions: Sequence[Question], scores: Mapping[str, Mapping[str, float]], metric: str) -> Floats | None:
    """One value for each group of questions, the mean over its questions; None if a value is missing.

    Shapes:
        Returns ``[groups]``.
    """
    sums: dict[str, list[float]] = {}
    for question in questions:
        if metric not in scores[question.id]:
            return None
        sums.setdefault(question.group, []).append(scores[question.id][metric])
    return np.array([sum(values) / len(values) for values in sums.values()])


def level(seeds: Sequence[Floats], *, resamples: int = RESAMPLES) -> Interval:
    """The mean over questions and seeds with its 95% bootstrap interval.

    Shapes:
        seeds: one ``[n]`` for each seed.
    """
    return interval([_weighted(values) for values in seeds], len(seeds[0]), resamples=resamples)


def difference(
    system: Sequence[Floats], other: Sequence[Floats], *, percent: bool = True, resamples: int = RESAMPLES
) -> Gap:
    """Paired difference of two systems: questions are resampled for both at once, and the first one's seeds.

        d_i = s_i - mean over seeds of o_i          needed = ((z_0.975 + z_0.8) sd(d) / effect)^2

    Args:
        system: One ``[n]`` for each seed.
        other: The same for what it is compared with.
        percent: Whether values are percents, which the statement on power is about.
        resamples: Of the bootstrap.

    Example:
        >>> gap = difference([np.array([100.0, 0, 100, 100])], [np.array([0.0, 0, 100, 100])])
        >>> gap.interval.value, round(gap.deviation), gap.needed
        (25.0, 50, 4906)
    """
    # Of systems with the same seeds the pairs are kept; else the other stands as its mean.
    paired = len(system) == len(other)
    mean = np.mean(other, axis=0)
    gaps = [values - (other[i] if paired else mean) for i, values in enumerate(system)]
    estimate = interval([_weighted(gap) for gap in gaps], len(mean), resamples=resamples)
    deviation = float(np.mean([gap.std(ddof=1) for gap in gaps])) if len(mean) > 1 else math.nan
    needed = questions_needed(deviation) if percent and deviation > 0 else None
    return Gap(estimate, deviation, needed)


def questions_needed(deviation: float, effect: float = EFFECT, power: float = 0.8) -> int:
    """Questions that find a true difference with a given power, in a two-sided test at 5%.

    >>> questions_needed(50.0)
    4906
    """
    z = _NORMAL.inv_cdf(0.975) + _NORMAL.inv_cdf(power)
    return math.ceil((z * deviation / effect) ** 2)


def over_sets(sets: Sequence[Sequence[Floats]], *, resamples: int = RESAMPLES) -> Interval:
    """The mean over sets, each counting alike however many questions it has; questions are drawn within their set.

    Of one set that is its :func:`level`.

    Args:
        sets: For each set one ``[n]`` for each seed; the seeds of all sets are the same.
        resamples: Of the bootstrap.
    """
    if len(sets) == 1:
        return level(sets[0], resamples=resamples)
    sizes = [len(seeds[0]) for seeds in sets]
    total, strata = sum(sizes), np.repeat(np.arange(len(sets)), sizes)
    scaled = [
        np.concatenate([values * (total / (len(sets) * n)) for values, n in zip(seed, sizes, strict=True)])
        for seed in zip(*sets, strict=True)
    ]
    return interval([_weighted(v) for v in scaled], total, kind="percentile", strata=strata, resamples=resamples)


def ratio(sums: Sequence[Floats], counts: Floats, *, resamples: int = RESAMPLES) -> Interval:
    """``sum of sums / sum of counts`` with its interval, such as the loss of a token in texts of any length.

    Shapes:
        sums: one ``[n]`` for each seed; counts: ``[n]``.
    """

    def statistic(values: Floats) -> Statistic:
        return lambda weights: (weights @ values) / (weights @ counts)

    return interval([statistic(values) for values in sums], len(counts), resamples=resamples)


def _weighted(values: Floats) -> Statistic:
    return lambda weights: (weights @ values) / weights.sum(axis=1)
