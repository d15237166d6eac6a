"""What can be said about soft tokens from the query alone, and what can be read from them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldframe.diagnosis.token_statistics import unit_rows
from coldframe.errors import DataError, MissingExtraError

FOLDS = 5
RIDGES = tuple(10.0**power for power in range(-4, 4))
CLUSTERS = 8
PERMUTATIONS = 99
_DIMENSIONS = 32  # of what the probe sees: principal components


def predicted_tokens(
    tokens: NDArray[np.float32],
    queries: NDArray[np.float32],
    groups: NDArray[np.int64] | None = None,
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Every query's tokens, predicted from its vector by a ridge regression fitted to other queries.

    The ridge is chosen in each fold out of ``RIDGES`` by leave-one-out. Tokens are predicted through their
    principal components, which loses nothing: there are no more of those than queries.

    Args:
        tokens: ``[N, m, d]``.
        queries: ``[N, d']``.
        groups: ``[N]``; queries of one group are never split between fit and prediction.
        folds: At least 2.
        seed: Of the folds.
    """
    _need_sklearn("Predicting tokens from the query")
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    units = np.arange(len(tokens)) if groups is None else groups
    if (several := len(np.unique(units))) < 2:
        raise DataError("All queries are of one group, so none can be predicted from others", got=several)
    flat = tokens.reshape(len(tokens), -1).astype(np.float64)
    mean = flat.mean(axis=0)
    left, sizes, right = np.linalg.svd(flat - mean, full_matrices=False)
    present = sizes > 1e-6 * sizes[0]
    fitted = cross_val_predict(
        make_pipeline(StandardScaler(), RidgeCV(RIDGES)),
        queries.astype(np.float64),
        left[:, present] * sizes[present],
        groups=units,
        cv=GroupKFold(min(folds, several), shuffle=True, random_state=seed),
    )
    predicted = mean + fitted.reshape(len(flat), -1) @ right[present]
    return np.asarray(predicted.reshape(tokens.shape), np.float32)


def retrieved_clusters(
    ids: NDArray[np.int64], entries: NDArray[np.float32], *, clusters: int = CLUSTERS, seed: int = 0
) -> NDArray[np.int64]:
    """Which kind of entries each query got: k-means clusters of the mean vectors of the retrieved sets, ``[N]``.

    Args:
        ids: ``[N, k]``, positions of entries; -1 where there is none.
        entries: ``[entries, d']``.
        clusters: At most this many.
        seed: Of the clustering.
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
    """How well a linear probe reads a label from the tokens: accuracy, its mean with permuted labels, p-value.

    Logistic regression on the principal components of the tokens, fitted to one half of the queries and asked
    about the other, both ways. Labels of fewer than four queries are left out.

    Args:
        tokens: ``[N, m, d]``.
        labels: ``[N]``.
        permutations: Of the labels, at least 1.
        seed: Of halves and permutations.

    Returns:
        NaN three times if fewer than two labels are left.
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
    """The first principal components of some rows."""
    from sklearn.decomposition import PCA

    components = min(_DIMENSIONS, *rows.shape)
    return np.asarray(PCA(components, svd_solver="randomized", random_state=seed).fit_transform(rows), np.float64)
