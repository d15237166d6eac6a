"""The vote of the nearest neighbours."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from coldframe.methods.config import MethodConfig
from coldframe.methods.search_space import Choices, Floats, Integers, SearchSpace
from coldframe.methods.without_model.base import WithoutModel, log_scores
from coldframe.retrieval.store import Retrieved


@dataclasses.dataclass(frozen=True)
class KNNConfig(MethodConfig):
    """Settings of the neighbours' vote.

    Args:
        k: Voters, at least 1.
        weights: What a vote counts: all alike (``"uniform"``), the similarity (``"similarity"``, below 0 as 0), or
            ``exp(similarity / temperature)``.
        temperature: Above 0; the smaller, the more the nearest counts. Of ``weights="temperature"`` alone.
    """

    section = "k-NN settings"
    at_least = {"k": 1}
    above = {"temperature": 0}

    k: int = 5
    weights: Literal["uniform", "similarity", "temperature"] = "uniform"
    temperature: float = 0.1


class KNN(WithoutModel):
    """The k nearest exemplars vote.

    With the neighbours' labels ``y_j`` and similarities ``s_j``::

        p(y) = sum_j w_j [y_j = y] / sum_j w_j      w_j = 1,  max(s_j, 0)  or  exp(s_j / t)

    A tie goes to the label of the nearest neighbour (by a share of 1e-9, so that the probabilities say so too). With
    similarity 0 to all of them every neighbour counts alike; without a neighbour the labels' shares in the store count.
    ``fit --calibrate`` corrects the shares by the validation rows.

    Paper: Fix and Hodges 1951; weights by similarity: Dudani 1976; by temperature: Khandelwal et al. 2020 (kNN-LM,
    arXiv 1911.00172).

    Cost:
        No parameters; one search.

    Example:
        >>> KNN(k=3, weights="similarity")
        KNN(k=3, weights='similarity')
    """

    name: ClassVar[str] = "knn"
    paper: ClassVar[str] = "Fix and Hodges 1951"
    config_class = KNNConfig
    config: KNNConfig
    uses_retrieval: ClassVar[bool] = True
    uses_query: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    trainable: ClassVar[bool] = False
    strategy: ClassVar[str] = "top"
    query_settings: ClassVar[tuple[str, ...]] = ("k", "weights", "temperature")
    search_space: ClassVar[SearchSpace] = {
        "k": Integers(1, 50, log=True),
        "weights": Choices(("uniform", "similarity", "temperature")),
        "temperature": Floats(0.01, 1.0),
    }

    def scores(self, texts: Sequence[str], retrieved: Retrieved) -> Tensor:
        """The logarithms of the shares of the votes."""
        near, labels = retrieved.ranked().top(self.config.k), len(self.ready.schema.labels)
        targets = np.array(self.ready.schema.targets(near.store.examples), np.int64)
        present = near.indices >= 0
        weights = np.where(present, self._weights(near.scores.astype(np.float64)), 0.0)
        weights = np.where(weights.sum(axis=1, keepdims=True) > 0, weights, present)
        voters = np.where(present, targets[near.indices], -1)
        votes = ((voters[:, :, None] == np.arange(labels)) * weights[:, :, None]).sum(axis=1)  # [n, k, labels], summed
        prior = np.bincount(targets, minlength=labels) / len(targets)
        total = votes.sum(axis=1, keepdims=True)
        shares = np.where(total > 0, votes / np.where(total > 0, total, 1), prior)
        return log_scores(_nearest_wins_ties(shares, voters))

    def _weights(self, similarities: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.config.weights == "uniform":
            return np.ones_like(similarities)
        if self.config.weights == "similarity":
            return np.maximum(similarities, 0)
        if not similarities.size:
            return similarities
        # From the largest on, which leaves the shares as they are and keeps the exponent small.
        return np.asarray(np.exp((similarities - similarities.max(axis=1, keepdims=True)) / self.config.temperature))


def _nearest_wins_ties(shares: NDArray[np.float64], voters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shares in which the label of the nearest voter is a little ahead of those it is tied with."""
    tied = shares >= shares.max(axis=1, keepdims=True) - 1e-12
    rows = np.arange(len(shares))
    leads = (voters >= 0) & tied[rows[:, None], np.maximum(voters, 0)]
    decided = rows[leads.any(axis=1)]  # neighbours come nearest first, so the first that leads is the nearest
    shares[decided, voters[decided, leads[decided].argmax(axis=1)]] += 1e-9
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
