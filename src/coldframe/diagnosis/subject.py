"""What can be diagnosed: anything with losses under its own retrieval and under changed retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Condition = Literal[
    "full", "empty", "swapped", "swapped-conditioning", "random", "fixed", "shuffled", "gaussian", "mean", "oracle"
]

#: What each condition puts in the place of what was retrieved; the query itself always stays.
CONDITIONS: Mapping[Condition, str] = {
    "full": "as it is",
    "empty": "no adaptation and nothing retrieved: the model alone",
    "swapped": "what was retrieved for another query",
    "swapped-conditioning": "all that another query's adaptation put into the model, its query's part included",
    "random": "random entries of the store",
    "fixed": "one set of entries for all queries",
    "shuffled": "the retrieved entries, with labels or contents of other entries",
    "gaussian": "noise with the mean and covariance of the store's vectors",
    "mean": "the mean vector of the store",
    "oracle": "entries chosen with knowledge of the answer",
}


#: Losses measured twice that are closer than this are the same: float additions in another order.
SAME = 1e-4


def noise_note(losses: NDArray[np.float64], again: NDArray[np.float64], unit: str) -> str:
    """How far losses that were measured twice lie apart, in sentences; empty if they do not."""
    apart = np.abs(losses - again)
    if not np.isfinite(apart).all() or apart.max() <= SAME:
        return ""
    return (
        f"Not deterministic: the losses of {len(losses)} queries, measured twice, differ by {apart.mean():.3g} {unit} "
        f"on average and {apart.max():.3g} at most. This noise is part of the intervals."
    )


@runtime_checkable
class Subject(Protocol):
    """A retrieval pipeline and the queries it is diagnosed on.

    Attributes:
        name: As reports show it.
        task: Name of the task.
        model: The language model in it.
        unit: Of a loss: ``"nats"``, or what a score is counted in.
        groups: ``[n]``, equal for queries that are not independent (of one document); None if all are.
    """

    name: str
    task: str
    model: str
    unit: str
    groups: NDArray[np.int64] | None

    def __len__(self) -> int:
        """Queries."""
        ...

    def missing(self) -> Mapping[Condition, str]:
        """The conditions that cannot be run here, each with the reason in words."""
        ...

    def losses(self, condition: Condition, seed: int = 0) -> NDArray[np.float64]:
        """Loss of every query's gold answer under a condition, ``[n]``; lower is better."""
        ...


@runtime_checkable
class TokenSubject(Subject, Protocol):
    """A subject that conditions its model through soft tokens, which can be looked at and replaced."""

    def tokens(self) -> NDArray[np.float32]:
        """The soft tokens of every query, ``[n, m, d_model]``."""
        ...

    def query_vectors(self) -> NDArray[np.float32]:
        """Encoder vectors of the queries alone, ``[n, d']``."""
        ...

    def retrieved_ids(self) -> NDArray[np.int64]:
        """Store positions of what was retrieved, nearest first, ``[n, k]``; -1 where there is none."""
        ...

    def losses_with(self, tokens: NDArray[np.float32]) -> NDArray[np.float64]:
        """Losses with other soft tokens, ``[n]``; ``tokens`` is ``[m, d]`` for all or ``[n, m, d]``."""
        ...
