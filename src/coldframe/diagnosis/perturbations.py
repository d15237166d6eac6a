"""Ways to spoil what was retrieved, and nothing else: other queries' sets, and stand-ins for exemplar vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldframe.diagnosis.subject import Condition
from coldframe.errors import DataError
from coldframe.methods.base import Method
from coldframe.retrieval.store import Retrieved, Store

StandIn: TypeAlias = Literal["gaussian", "mean"]
#: ``method.exemplar_vectors``: a retrieved batch to vectors ``[n, k, d]`` and which are present, ``[n, k]``.
Vectors: TypeAlias = Callable[[Retrieved], tuple[Tensor, Tensor]]

#: Conditions that a seed decides; the others are the same for every seed.
DRAWN: frozenset[Condition] = frozenset({"swapped", "swapped-conditioning", "random", "fixed", "shuffled", "gaussian"})

MOMENT_ROWS = 20_000  # entries that mean and covariance are taken from; more would change neither


def derangement(labels: Sequence[int] | NDArray[np.int64], seed: int | Sequence[int] = 0) -> NDArray[np.int64]:
    """A random permutation that leaves nothing in its place, and as few as possible within their label.

    All places, sorted by label (the labels, and the places of one label, in random order), are moved on by the
    size g of the largest label: that leaves ``max(0, 2 g - n)`` within their label, and no permutation leaves
    fewer.

    Args:
        labels: ``[n]``; equal for places that had better not be exchanged with each other.
        seed: Of the random orders.

    Raises:
        DataError: With fewer than two places.

    Example:
        >>> derangement([0, 0, 1, 2]).tolist()
        [2, 3, 0, 1]
    """
    n = len(labels)
    if n < 2:
        raise DataError("To give a query what belongs to another takes two queries", got=n, expected="at least 2")
    rng = np.random.default_rng(seed)
    _, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.lexsort((rng.permutation(n), rng.permutation(len(sizes))[place]))
    largest = int(sizes.max())
    found = np.empty(n, np.int64)
    found[order] = np.roll(order, -(largest if largest < n else 1))
    return found


def set_labels(retrieved: Retrieved) -> NDArray[np.int64]:
    """``[n]``: equal for queries that got the very same set. Without retrieval every query has its own."""
    if not retrieved.k:
        return np.arange(len(retrieved))
    _, labels = np.unique(np.sort(retrieved.indices, axis=1), axis=0, return_inverse=True)
    return np.asarray(labels, np.int64).reshape(-1)


@contextlib.contextmanager
def vectors_as(method: Method, replacement: Vectors) -> Iterator[None]:
    """The exemplar vectors of a method come from ``replacement`` while the block runs."""
    before = vars(method).get("exemplar_vectors")  # a stand-in that is in force already
    method.exemplar_vectors = replacement  # type: ignore[assignment]
    try:
        yield
    finally:
        del method.exemplar_vectors
        if before is not None:
            method.exemplar_vectors = before


def reads_vectors(method: Method, texts: Sequence[str], retrieved: Retrieved) -> bool:
    """Whether a method's conditioning of these queries is made from exemplar vectors."""
    own: Vectors | None = getattr(method, "exemplar_vectors", None)
    if own is None:
        return False
    asked = []

    def watching(some: Retrieved) -> tuple[Tensor, Tensor]:
        asked.append(len(some))
        return own(some)

    with vectors_as(method, watching):
        method.condition(texts, retrieved)
    return bool(asked)


def stand_in(method: Method, kind: StandIn, seed: int = 0) -> contextlib.AbstractContextManager[None]:
    """Something without information in the place of every exemplar vector, while the block runs.

    With the vectors ``e_s`` of the store's N entries, labels included, as the method sees them::

        mean: e = mean_s(e_s)        gaussian: e ~ N(mean_s(e_s), Cov_s(e_s)), drawn anew each time

    How many exemplars a query got, and how similar they are, stays. A method that is being trained changes
    how it sees the store; the moments are those of the first call.

    Args:
        method: One that has ``exemplar_vectors``.
        kind: ``"mean"`` or ``"gaussian"``.
        seed: Of the noise.

    Cost: every entry encoded once, and a QR decomposition of ``[N, d]``.
    """
    own: Vectors = method.exemplar_vectors  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(seed)
    moments: list[tuple[Tensor, Tensor]] = []

    def replacement(retrieved: Retrieved) -> tuple[Tensor, Tensor]:
        if not moments:
            moments.append(_moments(method, own, retrieved.store))
        mean, root = moments[0]
        present = torch.from_numpy(retrieved.indices >= 0).to(mean.device)
        vectors = mean.expand(*present.shape, -1)
        if kind == "gaussian":
            noise = torch.randn(*present.shape, len(root), generator=generator)
            vectors = vectors + noise.to(mean.device) @ root
        return vectors * present.unsqueeze(-1), present

    return vectors_as(method, replacement)


@torch.no_grad()
def _moments(method: Method, vectors_of: Vectors, store: Store) -> tuple[Tensor, Tensor]:
    """Mean ``[d]`` of the store's vectors, and a root R of their covariance, ``R^T R = Cov``."""
    rows = np.unique(np.linspace(0, len(store) - 1, min(MOMENT_ROWS, len(store))).astype(np.int64))[:, None]
    was_training = method.training
    method.eval()
    vectors = vectors_of(Retrieved(store, rows, np.zeros(rows.shape, np.float32)))[0][:, 0]
    method.train(was_training)
    mean = vectors.mean(0)
    return mean, torch.linalg.qr((vectors - mean) / max(len(rows) - 1, 1) ** 0.5, mode="r").R
