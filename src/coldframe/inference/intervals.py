"""How sure a score is: bootstrap intervals over test rows and training seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coldframe.config import Config, check
from coldframe.errors import ConfigError, nearest
from coldframe.inference.predictions import Predictions, same_rows
from coldframe.inference.seeds import SeedSpread, widened
from coldframe.tasks.metrics import METRICS, Metric
from coldframe.tasks.text_metrics import TEXT_METRICS, TextMetric

#: A score as a function of how often every row counts: weights ``[R, n]`` to scores ``[R]``.
Statistic: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Kind: TypeAlias = Literal["bca", "percentile"]

RESAMPLES = 10_000
#: Weights made at a time: 4 MB, so that they stay in the processor's cache.
CHUNK = 500_000
_NORMAL = NormalDist()


@dataclasses.dataclass(frozen=True)
class Interval(Config):
    """A score with its 95% interval.

    Args:
        value: The score on the rows as they are, averaged over seeds; NaN where it is not defined.
        low: Lower end.
        high: Upper end.
        n: Rows.
        seeds: Training seeds averaged over.

    Example:
        >>> str(Interval(76.4, 73.1, 79.5, n=779, seeds=3))
        '76.4 [73.1, 79.5] (n = 779, 3 seeds)'
    """

    section = "interval"

    value: float
    low: float
    high: float
    n: int
    seeds: int = 1

    def __str__(self) -> str:
        seeds = f"{self.seeds} seed{'s' if self.seeds > 1 else ''}"
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}] (n = {self.n}, {seeds})"


def statistic(runs: Sequence[Predictions], metric: str, positive: int | None = None) -> Statistic:
    """A metric as a function of row weights; the rows of several runs stand below one another.

    ``metric`` is a name in ``METRICS`` or, for written answers, in ``TEXT_METRICS``; or ``"loss"`` (of gold answers).

    Raises:
        ConfigError: There is no such metric for this kind of task.
    """
    written = not runs[0].labels
    if metric == "loss" and written:
        losses = np.concatenate([_losses(run) for run in runs])
        return lambda weights: _mean(losses, weights)
    known: Mapping[str, Metric | TextMetric] = TEXT_METRICS if written else METRICS
    measure = known.get(metric)
    if isinstance(measure, TextMetric):
        combine = measure.combine
        sums = np.concatenate([measure.statistics(run.generated or (), run.references or ()) for run in runs])
        return lambda weights: combine(weights @ sums, weights.sum(axis=1))
    if isinstance(measure, Metric):
        score_many = measure.score_many
        targets = np.concatenate([run.targets for run in runs])
        probabilities = np.concatenate([run.probabilities for run in runs])
        return lambda weights: score_many(targets, probabilities, positive, weights)
    kind = "generation" if written else "classification"
    raise ConfigError(f"{metric!r} is no metric of a {kind} task", fix=nearest(metric, known))


def usual_metrics(runs: Sequence[Predictions]) -> tuple[str, ...]:
    """The metrics that are shown for some runs unless others are named."""
    if runs[0].labels:
        return ("effective_accuracy", "accuracy", "balanced_accuracy", "mcc", "auroc", "calibration_error")
    losses = ("loss",) if all(run.losses is not None for run in runs) else ()
    return ("token_f1", "exact_match", "contains", *losses)


def _losses(run: Predictions) -> NDArray[np.float64]:
    if run.losses is None:
        raise ConfigError(f"The predictions of {run.method!r} come without losses of the gold answers")
    return run.losses


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means; NaN where all weights are 0."""
    totals = weights.sum(axis=1)
    means: NDArray[np.float64] = np.divide(weights @ values, totals, out=np.full(len(totals), np.nan), where=totals > 0)
    return means


def score_interval(
    runs: Sequence[Predictions],
    metric: str,
    positive: int | None = None,
    *,
    kind: Kind = "bca",
    stratified: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A metric of one method with its 95% interval; several runs are several seeds on the same rows.

    Args:
        runs: One run per training seed.
        metric: A name in ``METRICS`` or ``TEXT_METRICS``.
        positive: Position of the positive label.
        kind: ``"bca"`` or ``"percentile"``, see :func:`interval`.
        stratified: Keep the number of rows of each class as it is in every resample. Right when the test set
            was drawn class by class; otherwise it makes the interval too narrow.
        resamples: Bootstrap resamples.
        seed: Of the resampling; the same seed gives the same interval.
    """
    same_rows(runs)
    statistics = [statistic([run], metric, positive) for run in runs]
    strata = runs[0].targets if stratified else None
    whole = interval(statistics, len(runs[0]), kind=kind, strata=strata, resamples=resamples, seed=seed)
    least, most = METRICS[metric].range if metric in METRICS and runs[0].labels else (-math.inf, math.inf)
    return dataclasses.replace(whole, low=max(whole.low, least), high=min(whole.high, most))


def interval(
    statistics: Sequence[Statistic],
    n: int,
    *,
    kind: Kind = "bca",
    strata: NDArray[np.int64] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of statistics (one per seed, on the same ``n`` rows) with its 95% bootstrap interval.

    Resample r draws rows with replacement, the same for all seeds::

        theta*_r = 1/S sum_s theta_s(rows_r)

    ``kind="percentile"`` takes the 2.5% and 97.5% quantiles of theta*. ``kind="bca"`` (the default) first
    corrects for bias z_0 and skewness a::

        z_0 = Phi^-1( P(theta* < theta) + P(theta* = theta) / 2 )
        a   = sum_i d_i^3 / ( 6 (sum_i d_i^2)^(3/2) ),   d_i = mean(theta_(.)) - theta_(i)     (row i left out)
        alpha' = Phi( z_0 + (z_0 + z_alpha) / (1 - a (z_0 + z_alpha)) )

    What other seeds would change is added by :func:`coldframe.inference.seeds.widened`: three to five seeds are too few
    to be resampled.

    Paper: Efron 1987 (BCa). Deviates: resamples where the metric is not defined (a class is missing) are left out.

    Args:
        statistics: One per seed.
        n: Rows.
        kind: ``"bca"`` or ``"percentile"``.
        strata: ``[n]``; rows are resampled within equal values.
        resamples: Number of resamples, at least 100.
        seed: Of the resampling.

    Cost: ``seeds x (resamples + n)`` evaluations of the metric, in vectorised chunks.

    Example:
        >>> values = np.arange(100.0)
        >>> mean = interval([lambda weights: weights @ values / weights.sum(axis=1)], 100)
        >>> mean.value, round(mean.low), round(mean.high)
        (49.5, 44, 55)
    """
    check(resamples >= 100, "Too few resamples for a 95% interval", got=resamples, expected="at least 100")
    values = of_seeds(statistics, n)
    scores = bootstrap(statistics, n, strata=strata, resamples=resamples, seed=seed)
    value = float(np.mean(values))
    low, high = ends(value, scores.mean(axis=1), jackknife(statistics, n) if kind == "bca" else None)
    low, high = widened(value, low, high, [SeedSpread.of(values, scores)])
    return Interval(value, low, high, n=n, seeds=len(statistics))


def of_seeds(statistics: Sequence[Statistic], n: int) -> list[float]:
    """The score of each seed on the rows as they are."""
    return [float(score(np.ones((1, n)))[0]) for score in statistics]


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """The mean over seeds, as one statistic."""
    return lambda weights: np.mean([score(weights) for score in statistics], axis=0)


def bootstrap(
    statistics: Sequence[Statistic],
    n: int,
    *,
    strata: NDArray[np.int64] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """The score of each seed on resampled rows, ``[resamples, seeds]``; NaN where the metric is not defined.

    The rows are the same for the same ``seed`` and ``n``.
    """
    chunks = resampled_weights(n, strata=strata, resamples=resamples, seed=seed)
    return np.concatenate([np.stack([score(weights) for score in statistics], axis=1) for weights in chunks])


def resampled_weights(
    n: int, *, strata: NDArray[np.int64] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[NDArray[np.float64]]:
    """How often each row is drawn, in chunks ``[chunk, n]``; the same for the same seed and ``n``."""
    rng = np.random.default_rng([seed, 0])
    groups = [np.arange(n)] if strata is None else [np.flatnonzero(strata == value) for value in np.unique(strata)]
    step = max(1, CHUNK // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        offsets = np.arange(rows)[:, None] * n
        drawn = np.concatenate(
            [offsets + group[rng.integers(0, len(group), (rows, len(group)))] for group in groups], axis=1
        )
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def seed_shares(rows: int, seeds: int, rng: np.random.Generator, draws: int | None = None) -> NDArray[np.float64]:
    """The share of each training seed in every resample of ``draws`` seeds (default: all), ``[rows, seeds]``."""
    count = draws or seeds
    drawn = rng.integers(0, seeds, (rows, count)) + np.arange(rows)[:, None] * seeds
    return np.bincount(drawn.ravel(), minlength=rows * seeds).reshape(rows, seeds) / count


def jackknife(statistics: Sequence[Statistic], n: int) -> NDArray[np.float64]:
    """The mean over seeds with each row left out once, ``[n]``."""
    mean, step = mean_of(statistics), max(1, CHUNK // n)
    values = []
    for start in range(0, n, step):
        weights = np.ones((min(step, n - start), n))
        weights[np.arange(len(weights)), start + np.arange(len(weights))] = 0
        values.append(mean(weights))
    return np.concatenate(values)


def ends(value: float, draws: NDArray[np.float64], left_out: NDArray[np.float64] | None = None) -> tuple[float, float]:
    """Both ends of the 95% interval from bootstrap values; BCa when the jackknife values are given."""
    draws = draws[np.isfinite(draws)]
    if not len(draws) or not np.isfinite(value):
        return float("nan"), float("nan")
    levels = np.array([0.025, 0.975])
    if left_out is not None and np.isfinite(left_out).any():
        tie = 1e-9 * max(1.0, abs(value))  # equal values of a metric differ by rounding
        below = (np.count_nonzero(draws < value - tie) + np.count_nonzero(draws <= value + tie)) / (2 * len(draws))
        if 0 < below < 1:  # else the value lies outside all its resamples, and there is no bias to correct
            d = np.nanmean(left_out) - left_out[np.isfinite(left_out)]
            spread = float((d**2).sum()) ** 1.5
            skew = float((d**3).sum()) / (6 * spread) if spread > 1e-30 else 0.0
            z = _NORMAL.inv_cdf(below) + np.array([_NORMAL.inv_cdf(level) for level in levels])
            levels = np.array([_NORMAL.cdf(_NORMAL.inv_cdf(below) + x / (1 - skew * x)) for x in z])
    low, high = np.quantile(draws, levels)
    return float(low), float(high)


def wilson(count: float, trials: int) -> tuple[float, float]:
    """The 95% interval of a rate.

    Paper: Wilson 1927.

    Example:
        >>> low, high = wilson(0, 1000)
        >>> round(low, 4), round(high, 4)
        (0.0, 0.0038)
    """
    z, rate = NormalDist().inv_cdf(0.975), count / trials
    middle, half = rate + z**2 / (2 * trials), z * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    low, high = (middle - half) / (1 + z**2 / trials), (middle + half) / (1 + z**2 / trials)
    return min(max(0.0, low), rate), max(min(1.0, high), rate)  # rounding must not leave the rate outside
