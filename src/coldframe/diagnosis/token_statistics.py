"""How much soft tokens vary between queries, what the query predicts of them, and what a probe reads from them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldframe.diagnosis.evidence import Estimate
from coldframe.diagnosis.shares import UNDEFINED
from coldframe.errors import DataError, MissingExtraError
from coldframe.inference.intervals import Statistic, interval

RESAMPLES = 2000  # these numbers describe and do not decide
FOLDS = 5
RIDGES = tuple(10.0**power for power in range(-4, 4))
CLUSTERS = 8
PERMUTATIONS = 99
_DIMENSIONS = 32  # of what the probe sees: principal components


def energy_share(
    tokens: NDArray[np.float32],
    groups: NDArray[np.int64] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Share of the energy of tokens ``[N, m, d]`` that depends on the input, eta, with its bootstrap interval.

    ``groups`` ``[N]`` are equal for queries that are resampled together. Cost: ``resamples N^2`` multiplications.

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
    """Mean pairwise cosine s_j of each slot of tokens ``[N, m, d]`` over queries, with its jackknife interval.

    Queries of one group are left out together. Cost: linear in N, because s_j is a U-statistic.
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


def predicted_tokens(
    tokens: NDArray[np.float32],
    queries: NDArray[np.float32],
    groups: NDArray[np.int64] | None = None,
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Every query's tokens ``[N, m, d]``, predicted from its vector ``[N, d']`` by a ridge regression on other queries.

    The ridge is chosen in each fold out of ``RIDGES`` by leave-one-out; queries of one group stay in one fold. Tokens
    are predicted through their principal components, which loses nothing: there are no more of those than queries.
    """
    _need_sklearn("Predicting tokens from the query")
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    units = np.arange(len(tokens)) if groups is None else groups
    count = len(np.unique(units))
    if count < 2:
        raise DataError("All queries are of one group, so none can be predicted from others", got=count)
    flat = tokens.reshape(len(tokens), -1).astype(np.float64)
    mean = flat.mean(axis=0)
    left, sizes, right = np.linalg.svd(flat - mean, full_matrices=False)
    present = sizes > 1e-6 * sizes[0]
    fitted = cross_val_predict(
        make_pipeline(StandardScaler(), RidgeCV(RIDGES)),
        queries.astype(np.float64),
        left[:, present] * sizes[present],
        groups=units,
        cv=GroupKFold(min(folds, count), shuffle=True, random_state=seed),
    )
    predicted = mean + fitted.reshape(len(flat), -1) @ right[present]
    return np.asarray(predicted.reshape(tokens.shape), np.float32)


def retrieved_clusters(
    ids: NDArray[np.int64], entries: NDArray[np.float32], *, clusters: int = CLUSTERS, seed: int = 0
) -> NDArray[np.int64]:
    """Which kind of entries each query has: k-means clusters of the mean vectors of the retrieved sets, ``[N]``.

    ``ids`` ``[N, k]`` are positions among ``entries`` ``[entries, d']``; -1 where there is none.
    """
    _need_sklearn("Clustering what was retrieved")
    from sklearn.cluster import KMeans

    vectors, sums = unit_rows(entries), np.zeros((len(ids), entries.shape[1]))
    for column in ids.T:
        sums += vectors[column] * (column >= 0)[:, None]
    reduced = _principal(sums / np.maximum((ids >= 0).sum(axis=1), 1)[:, None], seed)
    distinct = len(np.unique(reduced.round(6), axis=0))
    means = KMeans(min(clusters, distinct), n_init=3, random_state=seed).fit(reduced)
    return np.asarray(means.labels_, np.int64)


def probe(
    tokens: NDArray[np.float32], labels: NDArray[np.int64], *, permutations: int = PERMUTATIONS, seed: int = 0
) -> tuple[float, float, float]:
    """How well a linear probe reads a label from tokens: accuracy, its mean with permuted labels, and p-value.

    Logistic regression on the principal components of the tokens, fitted to one half of the queries and tested on the
    other, both ways. Labels of fewer than four queries are left out; NaN three times if fewer than two labels are left.
    """
    _need_sklearn("A probe of the tokens")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, permutation_test_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    frequent = counts[place] >= 4
    if len(set(labels[frequent].tolist())) < 2:
        return float("nan"), float("nan"), float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit to permuted labels need not converge
        score, permuted, p_value = permutation_test_score(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=50)),
            _principal(tokens[frequent].reshape(int(frequent.sum()), -1), seed),
            labels[frequent],
            cv=StratifiedKFold(2, shuffle=True, random_state=seed),
            n_permutations=permutations,
            random_state=seed,
        )
    return float(score), float(np.mean(permuted)), float(p_value)


def _need_sklearn(purpose: str) -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", purpose) from error


def _principal(rows: NDArray[np.floating[Any]], seed: int) -> NDArray[np.float64]:
    """The first principal components of rows."""
    from sklearn.decomposition import PCA

    components = min(_DIMENSIONS, *rows.shape)
    return np.asarray(PCA(components, svd_solver="randomized", random_state=seed).fit_transform(rows), np.float64)
