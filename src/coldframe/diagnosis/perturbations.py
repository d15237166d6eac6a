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
from coldframe.methods.base import Method
from coldframe.retrieval.store import Retrieved, Store
from coldframe.retrieval.swap import donors

StandIn: TypeAlias = Literal["gaussian", "mean"]
#: ``method.exemplar_vectors``: a retrieved batch to vectors ``[n, k, d]`` and which are present, ``[n, k]``.
Vectors: TypeAlias = Callable[[Retrieved], tuple[Tensor, Tensor]]

#: Conditions that a seed decides; the others are the same for every seed.
DRAWN: frozenset[Condition] = frozenset({"swapped", "swapped-conditioning", "random", "fixed", "shuffled", "gaussian"})

MOMENT_ROWS = 20_000  # entries that mean and covariance are taken from; more would change neither


def other_queries(retrieved: Retrieved, seed: int | Sequence[int]) -> NDArray[np.int64]:
    """For every query another one, by :func:`~coldframe.retrieval.swap.donors`; ``[n]``.

    Without retrieval every query is as good as any other.
    """
    sets = [set(row[row >= 0].tolist()) if retrieved.k else {i} for i, row in enumerate(retrieved.indices)]
    return donors(sets, seed=seed)


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
