"""The share of a pipeline's gain that a change takes away, with an interval over queries and training seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coldframe.config import check
from coldframe.diagnosis.evidence import Estimate
from coldframe.errors import DataError
from coldframe.evaluation.compare import smallest_difference
from coldframe.inference.intervals import CHUNK, RESAMPLES, ends, resampled_weights, seed_shares

#: Of a share where there is no gain to have shares of.
UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"))


def independent(n: int, groups: NDArray[np.int64] | None) -> int:
    """How many of n queries are independent of one another: groups, where there are some.

    >>> independent(3, None), independent(3, np.array([0, 0, 1]))
    (3, 2)
    """
    return n if groups is None else len(np.unique(groups))


@dataclasses.dataclass(frozen=True)
class Resampled:
    """A number on the queries as they are, in every resample, ``[resamples]``, and without each unit, ``[units]``."""

    value: float
    draws: NDArray[np.float64]
    left_out: NDArray[np.float64]

    def __sub__(self, other: Resampled) -> Resampled:
        return Resampled(self.value - other.value, self.draws - other.draws, self.left_out - other.left_out)

    def __truediv__(self, other: Resampled) -> Resampled:
        return Resampled(self.value / other.value, self.draws / other.draws, self.left_out / other.left_out)

    def estimate(self, p_value: float = float("nan")) -> Estimate:
        """The number with its interval."""
        return Estimate(self.value, *ends(self.value, self.draws, self.left_out), p_value)


class Resampling:
    """Bootstrap weights over some queries, drawn once and used for every loss on them.

    Resample r draws units (queries, or whole clusters of queries that are not independent) and S - 1 of the S
    training seeds, both with replacement::

        mean*_r = sum_s q_rs sum_u w_ru L_su / sum_u w_ru n_u,   L_su = sum of seed s's losses in unit u

    Losses of one training draw the same seeds q_r, those of different trainings draw their own. With one seed the
    interval speaks of that training only; with two or three that differ much it is still too narrow.

    Paper: Owen 2007 (rows and seeds crossed); Davison & Hinkley 1997, section 3.8 (clusters); Rao & Wu 1988
    (one seed less is drawn than there are, which keeps their variance from being understated).

    ``groups`` ``[n]`` are equal for queries of one cluster. Cost: two bytes for every resample and unit.
    """

    def __init__(self, n: int, groups: ArrayLike | None = None, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        check(resamples >= 100, "Too few resamples for a 95% interval", got=resamples, expected="at least 100")
        if groups is not None and np.shape(groups) != (n,):
            raise DataError("Every query needs a group", got=np.shape(groups), expected=(n,))
        self._unit = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
        self._sizes = np.bincount(self._unit).astype(np.float64)
        if len(self._sizes) < 2:
            raise DataError("An interval needs two independent queries or more", got=len(self._sizes))
        self._weights = [
            chunk.astype(np.uint16) for chunk in resampled_weights(len(self._sizes), resamples=resamples, seed=seed)
        ]
        self.n, self.resamples, self.seed = n, resamples, seed

    def means(self, losses: ArrayLike, *, training: int = 0) -> list[Resampled]:
        """Mean losses ``[C, S, n]`` of conditions, training seeds and queries; ``training`` 0 is the pipeline's own."""
        sums = self._sums(np.asarray(losses, np.float64))
        conditions, seeds, units = sums.shape
        columns = sums.reshape(-1, units).T
        parts = []
        for chunk in self._weights:
            weights = chunk.astype(np.float64)
            parts.append(weights @ columns / (weights @ self._sizes)[:, None])
        by_seed = np.concatenate(parts).reshape(-1, conditions, seeds)
        rng = np.random.default_rng([self.seed, 1, training])
        draws = np.einsum("rcs,rs->cr", by_seed, seed_shares(self.resamples, seeds, rng, max(1, seeds - 1)))
        over_seeds = sums.mean(axis=1)
        totals = over_seeds.sum(axis=1)
        left_out = (totals[:, None] - over_seeds) / (self.n - self._sizes)
        return [Resampled(float(t / self.n), d, j) for t, d, j in zip(totals, draws, left_out, strict=True)]

    def p_values(self, differences: Sequence[NDArray[np.float64]]) -> list[float]:
        """Two-sided p-values of "the two conditions could be exchanged", one per paired difference.

        Each permutation exchanges the two conditions on a random half of the units, the same for all seeds::

            p = (1 + #{|t*| >= |t|}) / (1 + permutations),   t* = sum_u +-D_u

        It speaks of the trained models at hand, not of other training seeds. Each difference is ``[S, n]``.
        """
        sums = np.stack([self._sums(d).mean(axis=0) for d in differences], axis=1)  # [units, K]
        # A tolerance, so that equal sums count as equal whatever the order of the additions.
        observed = np.abs(sums.sum(axis=0)) - 1e-9 * np.abs(sums).sum(axis=0)
        rng = np.random.default_rng([self.seed, 2])
        step, extreme = max(1, CHUNK // len(sums)), np.zeros(len(differences))
        for start in range(0, self.resamples, step):
            signs = rng.integers(0, 2, (min(step, self.resamples - start), len(sums))) * 2.0 - 1
            extreme += (np.abs(signs @ sums) >= observed).sum(axis=0)
        return [float(p) for p in (1 + extreme) / (1 + self.resamples)]

    def _sums(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Losses summed over the queries of each unit, ``[..., n]`` to ``[..., units]``."""
        if len(self._sizes) == self.n:
            return losses
        order = np.argsort(self._unit, kind="stable")
        starts = np.concatenate([[0], np.cumsum(self._sizes[:-1])]).astype(np.int64)
        return np.asarray(np.add.reduceat(losses[..., order], starts, axis=-1))


def share_of(gain: Estimate, rise: Resampled, total: Resampled) -> Estimate:
    """A rise of the loss as a share of the total gain, both in the same resample; NaN unless ``gain`` lies above 0.

    Deviates: the definition asks only that the gain's interval excludes 0, but a pipeline that does harm has no gain.
    """
    return (rise / total).estimate() if gain.low > 0 else UNDEFINED


def remainder(share: Estimate) -> Estimate:
    """What is left of the gain, 1 - ``share``."""
    return Estimate(1 - share.value, 1 - share.high, 1 - share.low)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A condition, control or rung beside the full pipeline and the model alone.

    Attributes:
        loss: Mean loss l_A.
        rise: l_A - l_F, with the permutation test's p-value.
        gain: l_0 - l_A, likewise.
        share: rise / G, what is lost of the pipeline's gain.
    """

    loss: Estimate
    rise: Estimate
    gain: Estimate
    share: Estimate

    @property
    def explained(self) -> Estimate:
        """What is left of the pipeline's gain: gain / G = 1 - ``share``."""
        return remainder(self.share)


class Shares:
    """Losses of a pipeline and of the model alone, to which all other losses on the same queries are compared.

    With losses l_F of the full pipeline, l_0 of the model alone and l_A under a condition A::

        G = mean(l_0 - l_F),   rho_A = mean(l_A - l_F) / G

    Intervals are BCa intervals over resampled queries (or clusters) and training seeds, see :class:`Resampling`;
    numerator and denominator come from the same resample. Shares are undefined where the interval of G is not above 0.

    Paper: Efron 1987 (BCa); Efron & Tibshirani 1993, section 10 (ratios).

    Args:
        full: ``[S, n]`` or ``[n]``: the pipeline, one row per training seed.
        empty: ``[S, n]`` or ``[n]``: the model alone.
        groups: ``[n]``, equal for queries that are not independent; None if all are.
        resamples: Bootstrap resamples and permutations.
        seed: Of both.

    Raises:
        DataError: Losses that are not finite, or of other queries or seeds.

    Cost: a tenth of a second per condition at 779 queries, 3 seeds and 10,000 resamples.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> full = rng.exponential(size=400)
        >>> shares = Shares(full, full + rng.normal(0.4, 0.3, 400), resamples=2000)
        >>> share = shares.of(full + rng.normal(0.2, 0.3, 400)).share
        >>> f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}]"
        '0.47 [0.39, 0.55]'
    """

    def __init__(
        self,
        full: ArrayLike,
        empty: ArrayLike,
        groups: ArrayLike | None = None,
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        self._losses = _rows(full)
        self.seeds, self.n = self._losses.shape
        self._resampling = Resampling(self.n, groups, resamples=resamples, seed=seed)
        self._alone = self._checked(empty)
        self._full, self._empty = self._mean(self._losses), self._mean(self._alone)
        (p,) = self._resampling.p_values([self._alone - self._losses])
        self.loss, self.gain = self._full.estimate(), (self._empty - self._full).estimate(p)

    def of(self, losses: ArrayLike, *, training: int = 0) -> Measured:
        """Losses ``[S, n]`` or ``[n]`` of a condition, on the same queries, set against the pipeline's.

        ``training`` is 0 if row s comes from the pipeline's own training seed s; else a number for each training, whose
        S may differ.
        """
        values = self._checked(losses, own=training == 0)
        mean = self._mean(values, training)
        own = self._losses if training == 0 else self._losses.mean(axis=0)
        none = self._alone if training == 0 else self._alone.mean(axis=0)
        p_rise, p_gain = self._resampling.p_values([values - own, none - values])
        rise = mean - self._full
        return Measured(
            loss=mean.estimate(),
            rise=rise.estimate(p_rise),
            gain=(self._empty - mean).estimate(p_gain),
            share=share_of(self.gain, rise, self._empty - self._full),
        )

    def _mean(self, losses: NDArray[np.float64], training: int = 0) -> Resampled:
        return self._resampling.means(losses[None], training=training)[0]

    def _checked(self, losses: ArrayLike, *, own: bool = True) -> NDArray[np.float64]:
        values = _rows(losses)
        n = values.shape[1]
        if n != self.n:
            raise DataError("Losses under two conditions must be of the same queries", got=n, expected=self.n)
        if own and len(values) not in (1, self.seeds):
            raise DataError("Losses of one training need one row per seed", got=len(values), expected=self.seeds)
        return values


def _rows(losses: ArrayLike) -> NDArray[np.float64]:
    values = np.atleast_2d(np.asarray(losses, np.float64))
    if values.ndim != 2 or not values.size:
        raise DataError("Losses must be an array of training seeds by queries", got=values.shape)
    if len(bad := np.flatnonzero(~np.isfinite(values).all(axis=0))):
        raise DataError(f"{len(bad)} of {values.shape[1]} losses are not finite; the first is of query {bad[0]}")
    return values


def queries_needed(spread: float, delta: float) -> int:
    """How many queries show a distance to a boundary four times out of five, at the 5% level.

        n = (z_0.975 + z_0.8)^2 SD^2 / delta^2 = 7.85 SD^2 / delta^2

    For a share rho and the boundary c nearest to it, SD is the standard deviation of a query's contribution
    ``(l_A - l_F) - c (l_0 - l_F)`` and delta its mean ``(rho - c) G``. Divided by G, SD is sqrt(n) times the standard
    error of rho.

    Args:
        spread: Standard deviation SD of one query's contribution.
        delta: Distance to the boundary, in the same unit; above 0.

    Example:
        >>> queries_needed(0.3, 0.02)
        1766
    """
    check(delta > 0, "The distance to show must be positive", got=delta)
    return math.ceil((smallest_difference(spread) / delta) ** 2)
