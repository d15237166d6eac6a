"""What other training seeds would change: the part of an interval that no test row tells."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: 97.5% quantiles of Student's t by degrees of freedom; between them the logarithm is linear in 1 / freedom.
_T = {
    1: 12.7062,
    1.15: 9.3875,
    1.4: 6.6570,
    2: 4.3027,
    3: 3.1824,
    4: 2.7764,
    5: 2.5706,
    6: 2.4469,
    8: 2.3060,
    10: 2.2281,
    15: 2.1314,
    30: 2.0423,
}
_T |= {60: 2.0003, math.inf: 1.9600}


@dataclasses.dataclass(frozen=True)
class SeedSpread:
    """How far a mean over seeds would move with other seeds.

    Attributes:
        variance: Of the mean over seeds, from training alone; 0 where there is one run.
        freedom: Degrees of freedom that the variance is estimated with.
    """

    variance: float = 0.0
    freedom: int = 1

    @classmethod
    def of(cls, values: Sequence[float], resampled: NDArray[np.float64]) -> SeedSpread:
        """Estimate it from the scores of the seeds.

        The scores also differ because each model errs on rows of its own, which the interval over rows knows already.
        With s^2 the variance of the S scores, v_1 the mean of their variances over resampled rows, and v that of their
        mean (an analysis of variance of rows and seeds crossed)::

            variance = max(0, s^2 / S - max(0, v_1 - v) / (S - 1))

        Args:
            values: Score of each seed on the rows as they are.
            resampled: The same on resampled rows, ``[resamples, seeds]``.
        """
        seeds = len(values)
        known = resampled[np.isfinite(resampled).all(axis=1)]
        if seeds < 2 or len(known) < 2 or not np.isfinite(values).all():
            return cls()
        of_rows = max(0.0, float(known.var(axis=0).mean() - known.mean(axis=1).var())) / (seeds - 1)
        return cls(max(0.0, float(np.var(values, ddof=1)) / seeds - of_rows), seeds - 1)


def widened(value: float, low: float, high: float, spreads: Sequence[SeedSpread]) -> tuple[float, float]:
    """An interval over rows, made to hold other seeds as well.

    Half-widths add up by their squares (MOVER), the seeds' half with the t quantile at Welch's degrees of freedom::

        V    = sum_m v_m,       f = V^2 / sum_m (v_m^2 / f_m)
        low' = value - sqrt( (value - low)^2 + t_f^2 V )            and likewise high'

    Paper: Zou and Donner 2008 (MOVER), Welch 1947. How often it errs is measured in
    :mod:`reproduction.seed_calibration`.

    Args:
        value: Score, or difference of scores.
        low: Lower end of its 95% interval over rows.
        high: Upper end.
        spreads: Of the methods that the value is made of.

    Example:
        >>> low, high = widened(2.0, 1.0, 3.0, [SeedSpread(0.25, 4), SeedSpread(0.0, 4)])
        >>> round(low, 2), round(high, 2)
        (0.29, 3.71)
    """
    total = sum(spread.variance for spread in spreads)
    if not total > 0 or not math.isfinite(value):
        return low, high
    freedom = total**2 / sum(spread.variance**2 / spread.freedom for spread in spreads)
    margin = t_quantile(freedom) ** 2 * total
    below, above = max(0.0, value - low), max(0.0, high - value)
    return value - math.sqrt(below**2 + margin), value + math.sqrt(above**2 + margin)


def t_quantile(freedom: float) -> float:
    """The 97.5% quantile of Student's t, within one percent.

    >>> round(t_quantile(4), 3), round(t_quantile(1e9), 2)
    (2.776, 1.96)
    """
    places = sorted((1 / degrees, math.log(quantile)) for degrees, quantile in _T.items())
    x, y = zip(*places, strict=True)
    return math.exp(float(np.interp(1 / max(freedom, 1.0), x, y)))
