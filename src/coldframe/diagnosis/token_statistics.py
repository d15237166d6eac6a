"""What soft tokens are like over queries: how much they vary, how alike they are, in how many directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldframe.diagnosis.evidence import Estimate
from coldframe.diagnosis.shares import UNDEFINED
from coldframe.evaluation.intervals import Statistic, interval

RESAMPLES = 2000  # these numbers describe and do not decide


def energy_share(
    tokens: NDArray[np.float32],
    groups: NDArray[np.int64] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Share of the tokens' energy that depends on the input, eta, with a bootstrap interval over queries.

    Args:
        tokens: ``[N, m, d]``.
        groups: ``[N]``, equal for queries that are resampled together.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Cost: ``resamples N^2`` multiplications, on the Gram matrix of the queries.

    Example:
        >>> energy_share(np.ones((20, 2, 3), np.float32)).value
        0.0
    """
    flat = tokens.reshape(len(tokens), -1).astype(np.float64)
    if not flat.any():
        return UNDEFINED
    # About one query's tokens instead of 0: the variance is the same, and equal tokens have none to the bit.
    moved = flat - flat[0]
    gram, energies, own = moved @ moved.T, (flat**2).sum(axis=1), (moved**2).sum(axis=1)

    def share(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        count = weights.sum(axis=1)
        about_mean = weights @ own - ((weights @ gram) * weights).sum(axis=1) / count
        return np.asarray(np.maximum(about_mean, 0) / (count - 1) / ((weights @ energies) / count))

    return bootstrapped(share, len(flat), groups, resamples=resamples, seed=seed)


def slot_cosines(tokens: NDArray[np.float32], groups: NDArray[np.int64] | None = None) -> list[Estimate]:
    """Mean pairwise cosine s_j of each slot over queries, with jackknife intervals (s_j is a U-statistic).

    Args:
        tokens: ``[N, m, d]``.
        groups: ``[N]``, equal for queries that are left out together.

    Cost: linear in N.
    """
    unit = np.arange(len(tokens)) if groups is None else np.unique(groups, return_inverse=True)[1]
    order, sizes = np.argsort(unit, kind="stable"), np.bincount(unit)
    starts = np.concatenate([[0], np.cumsum(sizes[:-1])])
    cosines = []
    for j in range(tokens.shape[1]):
        vectors = unit_rows(tokens[:, j])
        value = mean_cosine(tokens[:, j])
        sums = np.add.reduceat(vectors[order], starts, axis=0)
        squares = np.add.reduceat((vectors[order] ** 2).sum(axis=1), starts)
        total, rest = sums.sum(axis=0), len(tokens) - sizes
        left_out = (((total - sums) ** 2).sum(axis=1) - (squares.sum() - squares)) / (rest * (rest - 1.0))
        half = 1.96 * float(np.sqrt((1 - 1 / len(sizes)) * ((left_out - left_out.mean()) ** 2).sum()))
        cosines.append(Estimate(value, max(value - half, -1.0), min(value + half, 1.0)))
    return cosines


def mean_cosine(vectors: NDArray[np.floating[Any]]) -> float:
    """Mean cosine of all pairs of rows, ``(|sum_i u_i|^2 - sum_i |u_i|^2) / (N (N - 1))``; a zero row has cosine 0.

    Cost: linear in N.

    Example:
        >>> mean_cosine(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
        0.3333333333333333
    """
    unit, n = unit_rows(vectors), len(vectors)
    return float(((unit.sum(axis=0) ** 2).sum() - (unit**2).sum()) / (n * (n - 1)))


def effective_rank(vectors: NDArray[np.floating[Any]]) -> float:
    """Participation ratio ``(sum lambda)^2 / sum lambda^2`` of the centred rows: 1 to their rank, 0 if all are equal.

    It is ``(tr K)^2 / |K|_F^2`` of the smaller of the centred Gram and covariance matrices; no eigenvalue is needed.

    Example:
        >>> round(effective_rank(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 6)
        2.0
    """
    moved = (vectors - vectors[0]).astype(np.float64)
    centred = moved - moved.mean(axis=0)
    kernel = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    squares = float((kernel**2).sum())
    return float(np.trace(kernel)) ** 2 / squares if squares else 0.0


def explained_variance(tokens: NDArray[np.float32], predicted: NDArray[np.float32]) -> float:
    """``R^2 = 1 - sum |C_i - f_i|^2 / sum |C_i - C|^2`` over all slots; NaN if the tokens do not vary."""
    about_mean = float(((tokens - tokens.mean(axis=0, dtype=np.float64)) ** 2).sum())
    if bool((tokens == tokens[:1]).all()):
        return float("nan")
    return 1 - float(((tokens.astype(np.float64) - predicted) ** 2).sum()) / about_mean


def bootstrapped(
    statistic: Statistic,
    n: int,
    groups: NDArray[np.int64] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """A function of query weights ``[R, n]`` with its BCa interval; queries of one group are drawn together."""
    unit = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(unit.max()) + 1
    bounds = interval([lambda weights: statistic(weights[:, unit])], units, resamples=resamples, seed=seed)
    return Estimate(bounds.value, bounds.low, bounds.high)


def unit_rows(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Rows scaled to length 1; a zero row stays zero."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1.0), np.float64)
