"""What every index does, and the rules that make "the nearest K" well defined.

Ties: neighbours are sorted by (-similarity, store position), on the float32 similarity that is returned.
0/0: the similarity of two empty things (no bits, no words, a zero vector) is 0.
A row is a neighbour whatever its similarity, 0 included: a query gets k of them as long as the store, less
what is excluded, has k rows; the rest is index -1, score 0. Only where words have to be shared (BM25) a row of
similarity 0 is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from coldframe.config import check

Indices = NDArray[np.int64]
Scores = NDArray[np.float32]
Exclude = Sequence[NDArray[np.int64]]
Q = TypeVar("Q")
Q_contra = TypeVar("Q_contra", contravariant=True)


class Index(Protocol[Q_contra]):
    """A store of things that can be searched for the nearest; similarity.py says how things are given."""

    def __len__(self) -> int:
        """Rows in the store."""
        ...

    def search(self, queries: Q_contra, k: int, exclude: Exclude | None = None) -> tuple[Indices, Scores]:
        """The k nearest rows of every query, by the rules above.

        Args:
            queries: n things.
            k: Neighbours per query, >= 0.
            exclude: For every query the store positions that it must not get.

        Returns:
            Positions, int64 ``[n, k]`` (-1: none left), and similarities, float32 ``[n, k]``.
        """
        ...

    def score(self, queries: Q_contra, indices: Indices) -> Scores:
        """Similarities of each query to given rows, ``[n, k]``; 0 where the position is -1."""
        ...


@dataclasses.dataclass(frozen=True)
class Recall:
    """How much of the exact answer an approximate index found.

    Attributes:
        value: Share of neighbours found that are as similar as the true k-th (ties count, whichever row it is).
        k: Neighbours per query.
        queries: Queries it was measured on.
    """

    value: float
    k: int
    queries: int


class ScanningIndex(Generic[Q]):
    """An exact index: looks at every row. Subclasses say how similar each row is.

    ``scan`` may be off by ``slack`` (float rounding that depends on the batch); ``refine`` gives the value
    that counts, which must depend on the two things compared only. With ``needs_overlap`` a row of similarity 0 is no
    neighbour.
    """

    slack = 0.0
    needs_overlap = False

    def __len__(self) -> int:
        raise NotImplementedError

    def scan(self, queries: Q) -> Iterator[Scores]:
        """For every query its similarity to all rows, float32 ``[len(self)]``; the caller may overwrite it."""
        raise NotImplementedError

    def refine(self, queries: Q, query: int, scanned: Scores, rows: Indices) -> Scores:
        """The similarity of one query to some rows."""
        return scanned[rows]

    def search(self, queries: Q, k: int, exclude: Exclude | None = None) -> tuple[Indices, Scores]:
        """See :meth:`Index.search`."""
        check(k >= 0, "k cannot be negative", got=k)
        results: list[tuple[Indices, Scores]] = []
        for query, scanned in enumerate(self.scan(queries)):
            allowed = len(self)
            if exclude is not None and len(exclude[query]):
                left_out = np.unique(exclude[query])
                scanned[left_out] = -np.inf
                allowed -= len(left_out)
            if self.needs_overlap:
                scanned[scanned == 0] = -np.inf
            rows = candidates(scanned, min(k, allowed), self.slack)
            results.append(nearest(rows, self.refine(queries, query, scanned, rows), k))
        return stack(results, k)

    def score(self, queries: Q, indices: Indices) -> Scores:
        """See :meth:`Index.score`."""
        scores = np.zeros(indices.shape, np.float32)
        for query, scanned in enumerate(self.scan(queries)):
            present = indices[query] >= 0
            scores[query, present] = self.refine(queries, query, scanned, indices[query, present])
        return scores


def candidates(scores: Scores, k: int, slack: float = 0.0) -> Indices:
    """Positions, ascending, that surely hold the k largest of ``scores`` and all that tie with them.

    The k-th largest of the maxima of k or more blocks is never above the k-th largest score, and costs one
    pass over the scores instead of a partition of them.
    """
    if k <= 0:
        return np.empty(0, np.int64)
    if k >= len(scores):
        return np.flatnonzero(scores > -np.inf)
    block = 64 if len(scores) >= 64 * 4 * k else 1
    whole = len(scores) // block * block
    maxima = scores[:whole].reshape(-1, block).max(axis=1)
    bound = np.partition(maxima, -k)[-k]
    return np.flatnonzero((scores >= bound - slack) & (scores > -np.inf))


def nearest(rows: Indices, scores: Scores, k: int) -> tuple[Indices, Scores]:
    """The first k of some rows by (-similarity, position), padded with -1 and 0."""
    order = np.lexsort((rows, -scores))[:k]
    padding = k - len(order)
    return (
        np.pad(rows[order], (0, padding), constant_values=-1),
        np.pad(scores[order], (0, padding)).astype(np.float32, copy=False),
    )


def stack(results: Sequence[tuple[Indices, Scores]], k: int) -> tuple[Indices, Scores]:
    """The results of single queries as two arrays, ``[n, k]`` even where n is 0."""
    indices, scores = np.empty((len(results), k), np.int64), np.empty((len(results), k), np.float32)
    for i, (row, score) in enumerate(results):
        indices[i], scores[i] = row, score
    return indices, scores
