"""Approximate search by usearch, for stores too large to scan; it says how much it misses."""

from __future__ import annotations

import contextlib
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import MissingExtraError
from coldframe.retrieval.exact import ExactCosine, ExactTanimoto
from coldframe.retrieval.index import Exclude, Indices, Recall, ScanningIndex, Scores, nearest, stack
from coldframe.retrieval.molecules import BITS
from coldframe.retrieval.similarity import Sets, unit

Q = TypeVar("Q")

CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 16, 128, 256
OVERSAMPLE = 64  # candidates beyond k: they are scored exactly, so that ties among them follow the rule


class ApproximateIndex(Generic[Q]):
    """Candidates from a graph (HNSW, arXiv:1603.09320), then exact similarities and the written tie rule.

    Where the graph gives too few, and where a store is so small that the candidates would be all of it, the
    search is exact. The graph is built by several threads, so which neighbours it misses may differ between
    two builds; :meth:`recall` measures how many.
    """

    def __init__(self, exact: ScanningIndex[Q], vectors: NDArray[Any], dim: int, metric: str, dtype: str) -> None:
        # Importing RDKit after usearch ends the process (seen with usearch 2.26); the other way round works.
        with contextlib.suppress(ImportError):
            import rdkit.Chem  # noqa: F401
        try:
            from usearch.index import Index as Graph
        except ImportError as error:
            raise MissingExtraError("usearch", "ann", "The index 'usearch'") from error
        self._exact, self._store = exact, vectors
        self._graph = Graph(
            ndim=dim,
            metric=metric,
            dtype=dtype,
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )
        if len(vectors):
            self._graph.add(np.arange(len(vectors)), vectors)

    def __len__(self) -> int:
        return len(self._store)

    def vectors(self, queries: Q) -> NDArray[Any]:
        """Queries as the graph holds them."""
        raise NotImplementedError

    def similarity(self, query: NDArray[Any], rows: Indices) -> Scores:
        """Exact similarity of one query to some rows, equal to the exact index's to the bit."""
        raise NotImplementedError

    def take(self, queries: Q, places: Indices) -> Q:
        """Some of the queries."""
        raise NotImplementedError

    def search(self, queries: Q, k: int, exclude: Exclude | None = None) -> tuple[Indices, Scores]:
        """See :meth:`coldframe.retrieval.index.Index.search`; approximate."""
        vectors = self.vectors(queries)
        left_out = exclude if exclude is not None else [np.empty(0, np.int64)] * len(vectors)
        width = k + OVERSAMPLE + max((len(rows) for rows in left_out), default=0)
        if width >= len(self) or k == 0 or not len(vectors):
            return self._exact.search(queries, k, exclude)
        matches = self._graph.search(vectors, width)
        keys = np.asarray(matches.keys).reshape(len(vectors), -1).astype(np.int64)
        counts = np.atleast_1d(getattr(matches, "counts", keys.shape[1]))
        results: list[tuple[Indices, Scores]] = []
        for i, (candidates, count, barred) in enumerate(zip(keys, counts, left_out, strict=True)):
            rows = np.setdiff1d(candidates[:count], barred)
            if len(rows) < k:
                indices, scores = self._exact.search(self.take(queries, np.array([i])), k, [barred])
                results.append((indices[0], scores[0]))
            else:
                results.append(nearest(rows, self.similarity(vectors[i], rows), k))
        return stack(results, k)

    def score(self, queries: Q, indices: Indices) -> Scores:
        """See :meth:`coldframe.retrieval.index.Index.score`; exact."""
        scores = np.zeros(indices.shape, np.float32)
        for i, vector in enumerate(self.vectors(queries)):
            present = indices[i] >= 0
            scores[i, present] = self.similarity(vector, indices[i, present])
        return scores

    def recall(self, queries: Q, k: int, exclude: Exclude | None = None) -> Recall:
        """Compare with the exact search, which takes its time."""
        _, truth = self._exact.search(queries, k, exclude)
        _, scores = self.search(queries, k, exclude)
        hit = scores >= truth[:, -1:]
        return Recall(float(hit.mean()) if hit.size else 1.0, k, len(scores))


class UsearchTanimoto(ApproximateIndex[Sets]):
    """Tanimoto over 2048-bit fingerprints; see :class:`ApproximateIndex` for what is exact about it.

    Args:
        sets: The store; members below 2048.

    Raises:
        MissingExtraError: Without the extra ``ann``.
    """

    def __init__(self, sets: Sets) -> None:
        super().__init__(ExactTanimoto(sets), sets.packed(), BITS, "tanimoto", "b1")

    def vectors(self, queries: Sets) -> NDArray[np.uint8]:
        """Packed bits."""
        return queries.packed()

    def similarity(self, query: NDArray[np.uint8], rows: Indices) -> Scores:
        """By popcount."""
        store = self._store[rows]
        shared = np.bitwise_count(store & query).sum(axis=1, dtype=np.float32)
        either = np.bitwise_count(store | query).sum(axis=1, dtype=np.float32)
        return np.asarray(shared / np.maximum(either, 1), np.float32)

    def take(self, queries: Sets, places: Indices) -> Sets:
        """Some of the queries."""
        return Sets.of([queries[i] for i in places])


class UsearchCosine(ApproximateIndex[NDArray[np.float32]]):
    """Cosine over float32 vectors; see :class:`ApproximateIndex` for what is exact about it.

    Args:
        vectors: The store, ``[n, dim]``.

    Raises:
        MissingExtraError: Without the extra ``ann``.
    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._scanning = ExactCosine(vectors)
        super().__init__(self._scanning, unit(vectors), vectors.shape[1], "cos", "f32")

    def vectors(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors."""
        return unit(queries)

    def similarity(self, query: NDArray[np.float32], rows: Indices) -> Scores:
        """As the exact index refines it."""
        return self._scanning.refine(query[None], 0, np.empty(0, np.float32), rows)

    def take(self, queries: NDArray[np.float32], places: Indices) -> NDArray[np.float32]:
        """Some of the queries."""
        return queries[places]
