"""Whether two methods differ: paired differences on the same rows, and the smallest one that the rows can show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from coldframe.config import Config, check
from coldframe.errors import DataError
from coldframe.inference.intervals import (
    CHUNK,
    RESAMPLES,
    Kind,
    Statistic,
    bootstrap,
    ends,
    jackknife,
    mean_of,
    of_seeds,
    statistic,
)
from coldframe.inference.predictions import Predictions, same_rows
from coldframe.inference.seeds import SeedSpread, widened


@dataclasses.dataclass(frozen=True)
class Difference(Config):
    """What one method scored above another on the same rows.

    Args:
        value: Score of the first minus score of the second, each averaged over its seeds.
        low: Lower end of the 95% interval.
        high: Upper end.
        n: Rows.
        p_value: Of the permutation test, two-sided.
        smallest: The smallest true difference that this many rows would show four times out of five.
    """

    section = "difference"

    value: float
    low: float
    high: float
    n: int
    p_value: float
    smallest: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval tells the two methods apart."""
        return self.low > 0 or self.high < 0


def paired_difference(
    first: Sequence[Predictions],
    second: Sequence[Predictions],
    metric: str,
    positive: int | None = None,
    *,
    kind: Kind = "bca",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Compare two methods on the same rows.

    Both see the same resampled rows, so what makes a row easy or hard cancels. What other seeds would change is added
    for each method apart, because seed 1 of one has nothing to do with seed 1 of another:
    :func:`coldframe.inference.seeds.widened`.

    Args:
        first: One run per seed.
        second: One run per seed; the number of seeds may differ.
        metric: A name in ``METRICS`` or ``TEXT_METRICS``.
        positive: Position of the positive label.
        kind: Of the interval.
        resamples: Bootstrap resamples and permutations.
        seed: Of both.

    Raises:
        DataError: The runs are of different queries.
    """
    same_rows([*first, *second])
    n = len(first[0])
    a = [statistic([run], metric, positive) for run in first]
    b = [statistic([run], metric, positive) for run in second]
    values = [of_seeds(statistics, n) for statistics in (a, b)]
    scores = [bootstrap(statistics, n, resamples=resamples, seed=seed) for statistics in (a, b)]
    spreads = [SeedSpread.of(*pair) for pair in zip(values, scores, strict=True)]
    value = float(np.mean(values[0]) - np.mean(values[1]))
    draws = scores[0].mean(axis=1) - scores[1].mean(axis=1)
    left_out = jackknife(a, n) - jackknife(b, n) if kind == "bca" else None
    low, high = widened(value, *ends(value, draws, left_out), spreads)
    by_chance = math.sqrt(float(np.nanvar(draws)) + sum(spread.variance for spread in spreads))
    return Difference(
        value,
        low,
        high,
        n=n,
        p_value=permutation_test(first, second, metric, positive, permutations=resamples, seed=seed),
        smallest=smallest_difference(by_chance),
    )


def permutation_test(
    first: Sequence[Predictions],
    second: Sequence[Predictions],
    metric: str,
    positive: int | None = None,
    *,
    permutations: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Two-sided p-value of "the two methods' answers could be exchanged".

    Each permutation swaps the two methods' answers on a random half of the rows (the same rows for all seeds)
    and scores again: p = (1 + #{|t*| >= |t|}) / (1 + permutations). It speaks of the trained models at hand,
    not of other training seeds; the interval speaks of both.
    """
    same_rows([*first, *second])
    n = len(first[0])
    pairs = [(first[i % len(first)], second[i % len(second)]) for i in range(math.lcm(len(first), len(second)))]
    tests = [_swap_statistic(a, b, metric, positive) for a, b in pairs]
    observed = abs(float(mean_of(tests)(np.zeros((1, n)))[0]))
    rng = np.random.default_rng([seed, 3])
    step, extreme, defined = max(1, CHUNK // (2 * n)), 0, 0
    for start in range(0, permutations, step):
        swaps = rng.integers(0, 2, (min(step, permutations - start), n)).astype(np.float64)
        differences = np.abs(mean_of(tests)(swaps))
        # A tolerance, so that equal differences count as equal whatever the order of the additions.
        extreme += int(np.count_nonzero(differences >= observed - 1e-9))
        defined += int(np.count_nonzero(np.isfinite(differences)))
    return (1 + extreme) / (1 + defined)


def _swap_statistic(a: Predictions, b: Predictions, metric: str, positive: int | None) -> Statistic:
    """Difference of the scores as a function of which rows are swapped (1) between the two runs."""
    # The rows of both runs stand one below the other; a swap moves the weight from one copy to the other.
    both = statistic([a, b], metric, positive)

    def difference(swaps: NDArray[np.float64]) -> NDArray[np.float64]:
        weights = np.concatenate([1 - swaps, swaps], axis=1)
        return np.asarray(both(weights) - both(1 - weights))

    return difference


def smallest_difference(standard_error: float, *, power: float = 0.8) -> float:
    """The smallest true difference found with the given power at the 5% level: (z_0.975 + z_power) SE.

    Example:
        >>> round(smallest_difference(4.0), 1)
        11.2
    """
    return (NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(power)) * standard_error


def rows_needed(difference: Difference, target: float) -> int:
    """About how many test rows it takes to tell ``target`` points apart: the error falls as 1 / sqrt(n).

    Example:
        >>> rows_needed(Difference(2.0, -6.0, 10.0, n=100, p_value=0.6, smallest=10.0), target=5.0)
        400
    """
    check(target > 0, "The difference to tell must be positive", got=target)
    return math.ceil(difference.n * (difference.smallest / target) ** 2)


def average_gain(scores: Sequence[float], base: Sequence[float]) -> float:
    """The papers' average gain over several tasks, in points.

    Delta_avg = (prod_i (100 + o_i - b_i))^(1/n) - 100

    Paper: MHA-ESP, section on metrics; reproduces its printed values.

    Args:
        scores: One score per task, 0 to 100.
        base: The base method's scores, in the same order.

    Example:
        >>> round(average_gain([76.27, 82.49, 96.32], [75.87, 69.33, 44.24]), 2)
        20.0
    """
    if len(scores) != len(base) or not scores:
        raise DataError("Both methods need a score for every task", got=(len(scores), len(base)))
    gains = 100 + np.asarray(scores, float) - np.asarray(base, float)
    return float(np.prod(gains) ** (1 / len(gains)) - 100)
