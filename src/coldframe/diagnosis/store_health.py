"""The state of a store and of what is retrieved from it: hubs, overlap, contrast, duplicates, leaks."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coldframe.config import check
from coldframe.diagnosis.advice import store_findings
from coldframe.diagnosis.evidence import StoreHealth
from coldframe.diagnosis.token_statistics import bootstrapped, mean_cosine
from coldframe.errors import ConfigError, DataError
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.exact import ExactCosine, ExactTanimoto
from coldframe.retrieval.retriever import Retriever
from coldframe.retrieval.similarity import morgan_sets, scaffold_sets
from coldframe.tasks.task import Example

ROWS = 1000  # queries that overlap and contrast are measured on, at most
ENTRIES = 20_000  # entries that anisotropy is measured on, at most
DISTANCES = 40_000_000  # between queries and entries, at most
POINTS = 200  # of the curve


def store_health(pipeline: Pipeline, examples: Sequence[Example], *, seed: int = 0) -> StoreHealth:
    """The health of a pipeline's store by what queries retrieve from it; see :func:`health_of`.

    Distances are 1 - Tanimoto (or 1 - cosine) as the retriever compares, vectors those of the method's encoder, or else
    of the retriever's. A search by words alone (bm25) has neither.

    Args:
        pipeline: Fitted, or loaded.
        examples: The queries.
        seed: Of samples and intervals.

    Raises:
        ConfigError: The method retrieves nothing.

    Cost: an exact search of at most ``ROWS`` queries, and every entry (at most ``ENTRIES``) encoded once.
    """
    retriever, store = pipeline.retriever, pipeline.store
    if retriever is None:
        raise ConfigError(f"{pipeline.method.name} retrieves nothing, so it has no store to measure")
    retrieved = pipeline.retrieve(examples).ranked()
    rng = np.random.default_rng(seed)
    texts = [examples[i].text for i in _sample(len(examples), max(1, min(ROWS, DISTANCES // len(store))), rng)]
    encoder = pipeline.method.ready.encoder or (None if retriever.similarity == "bm25" else retriever.encoder)
    sampled = [store.texts[i] for i in _sample(len(store), ENTRIES, rng)]
    return health_of(
        len(store),
        retrieved.indices,
        retrieved.scores,
        distances=_distances(retriever, texts),
        vectors=None if encoder is None else encoder.encode(sampled),
        keys=store.keys.tolist(),
        query_keys=[e.key for e in examples],
        seed=seed,
    )


def health_of(
    entries: int,
    retrieved: NDArray[np.int64],
    similarities: NDArray[np.float32],
    *,
    distances: NDArray[np.float32] | None = None,
    vectors: NDArray[np.float32] | None = None,
    keys: Sequence[str] = (),
    query_keys: Sequence[str] = (),
    seed: int = 0,
) -> StoreHealth:
    """The health of a store by what was retrieved from it.

    With N_s the number of queries that retrieve entry s, and p_s = N_s / sum N::

        hubness  = mean((N - mean N)^3) / std(N)^3       gini    = sum_s (2 r_s - n_s - 1) N_s / (n_s sum N)
        entropy  = -sum_s p_s log p_s / log n_s          overlap = mean over pairs of |A and B| / |A or B|
        contrast = median over queries of (d_mean - d_min) / d_min

    with r_s the rank of N_s from below. Random sets of k would overlap by about ``k / (2 n_s - k)``.

    Paper: Radovanovic et al. 2010 (hubness); Beyer et al. 1999 (contrast).

    Args:
        entries: In the store.
        retrieved: ``[n, k]``, positions of entries, nearest first; -1 where there is none.
        similarities: ``[n, k]``, larger is nearer.
        distances: ``[q, entries]``, of some queries to all entries, at least 0; None if there is no distance.
        vectors: ``[e, d]`` of entries, or a sample of them; None if there are none.
        keys: Equal for duplicates; empty if they are not known.
        query_keys: The same of the queries.
        seed: Of the sample of queries, and of the interval.

    Raises:
        DataError: Nothing was retrieved.
        ConfigError: A position lies outside the store.

    Example:
        >>> retrieved = np.array([[0, 1], [0, 2], [0, 3], [0, 1]])
        >>> health = health_of(5, retrieved, np.ones((4, 2), np.float32))
        >>> health.never, health.curve[0]
        (0.2, (1, 4))
    """
    if not retrieved.size:
        raise DataError("Nothing was retrieved, so the health of the store is not known")
    check(int(retrieved.max()) < entries, "A position lies outside the store", got=int(retrieved.max()))
    rng, present = np.random.default_rng(seed), retrieved >= 0
    n, k = retrieved.shape
    counts = np.bincount(retrieved[present], minlength=entries)
    jaccard = overlaps(retrieved[_sample(n, ROWS, rng)])
    last = np.take_along_axis(similarities, np.maximum(present.sum(axis=1) - 1, 0)[:, None], axis=1)
    key_counts = Counter(keys)
    health = StoreHealth(
        entries=entries,
        queries=n,
        k=k,
        hubness=skewness(counts),
        never=float(np.mean(counts == 0)),
        gini=gini(counts),
        entropy=entropy(counts),
        overlap=bootstrapped(lambda weights: _pairs(weights, jaccard), len(jaccard), seed=seed),
        overlap_chance=k / (2 * entries - k),
        contrast=float("nan") if distances is None else contrast(distances),
        score_gap=float(np.median(similarities[:, 0] - last[:, 0])),
        anisotropy=float("nan") if vectors is None else mean_cosine(vectors),
        anisotropy_centred=float("nan") if vectors is None else mean_cosine(vectors - vectors.mean(axis=0)),
        duplicates=sum(count for count in key_counts.values() if count > 1),
        leaks=sum(key in key_counts for key in query_keys),
        curve=curve(counts),
        warnings=(),
    )
    return dataclasses.replace(health, warnings=tuple(warning for warning, _ in store_findings(health)))


def skewness(counts: NDArray[np.int64]) -> float:
    """Third standardised moment; 0 if all are equal."""
    centred = counts - counts.mean()
    spread = float(np.mean(centred**2))
    return float(np.mean(centred**3)) / spread**1.5 if spread else 0.0


def gini(counts: NDArray[np.int64]) -> float:
    """Inequality of counts: 0 if all are alike, ``1 - 1 / n`` if one has everything.

    Example:
        >>> gini(np.array([2, 2, 2])), gini(np.array([0, 0, 6]))
        (0.0, 0.6666666666666666)
    """
    n, total = len(counts), int(counts.sum())
    ranks = np.arange(1, n + 1)
    return float(((2 * ranks - n - 1) * np.sort(counts)).sum()) / (n * total) if total else 0.0


def entropy(counts: NDArray[np.int64]) -> float:
    """Entropy of the shares, divided by that of equal shares; 1 for a single entry."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum() / math.log(len(counts))) if len(counts) > 1 else 1.0


def overlaps(sets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Jaccard overlap of the sets of all pairs of queries, ``[n, n]``, 0 on the diagonal; -1 is in no set."""
    used, columns = np.unique(sets, return_inverse=True)
    member = np.zeros((len(sets), len(used)), np.float32)
    member[np.arange(len(sets))[:, None], columns.reshape(sets.shape)] = 1
    member[:, used < 0] = 0
    shared, sizes = (member @ member.T).astype(np.float64), member.sum(axis=1, dtype=np.float64)
    out: NDArray[np.float64] = shared / np.maximum(sizes[:, None] + sizes - shared, 1)
    np.fill_diagonal(out, 0)
    return out


def contrast(distances: NDArray[np.float32]) -> float:
    """Median over queries of ``(d_mean - d_min) / d_min``, ``distances`` being ``[q, entries]``.

    A query that stands in the store (d_min = 0) is left out; NaN if all do.
    """
    nearest = distances.min(axis=1).astype(np.float64)
    apart = nearest > 1e-6
    mean = distances.mean(axis=1, dtype=np.float64)
    return float(np.median((mean[apart] - nearest[apart]) / nearest[apart])) if apart.any() else float("nan")


def curve(counts: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Rank and count of entries, most retrieved first: all of the first ranks, fewer and fewer of the rest."""
    ranks = np.unique(np.geomspace(1, len(counts), POINTS).round().astype(np.int64))
    ordered = np.sort(counts)[::-1]
    return tuple((int(rank), int(ordered[rank - 1])) for rank in ranks)


def _pairs(weights: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of ``values[i, j]`` over pairs of different queries, drawn as often as the weights say, ``[R]``."""
    pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    total = ((weights @ values) * weights).sum(axis=1)
    means: NDArray[np.float64] = np.divide(total, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return means


def _sample(n: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``count`` of n positions at random, ascending."""
    return np.arange(n) if n <= count else np.sort(rng.choice(n, count, replace=False))


def _distances(retriever: Retriever, texts: Sequence[str]) -> NDArray[np.float32] | None:
    """1 - similarity of texts to all entries, ``[n, entries]``; None for bm25, which has no largest value."""
    if retriever.similarity == "bm25":
        return None
    if retriever.similarity == "cosine":
        encode = retriever.encoder.encode
        scanned = ExactCosine(encode(retriever.store.texts)).scan(encode(texts))
    else:
        sets = morgan_sets if retriever.similarity == "tanimoto" else scaffold_sets
        scanned = ExactTanimoto(sets(retriever.store.texts)).scan(sets(texts))
    return np.stack([1 - scores for scores in scanned])
