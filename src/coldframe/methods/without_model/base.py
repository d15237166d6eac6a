"""What the methods share that ask no language model: they score the labels themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldframe.errors import ConfigError, DataError, MissingExtraError
from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method
from coldframe.retrieval.encoders import Encoder
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example

#: The log-score of a label that cannot be the answer: its probability is 0, and stays finite in logarithms.
NEVER = -1e4


class WithoutModel(Method):
    """A control that anyone can run alone: ``p(y | x, S) = softmax(s(x, S))_y``; classification only.

    A subclass gives the scores ``s`` in :meth:`scores`. It is fitted, saved, loaded and evaluated like every other
    method, and no language model is loaded for it.
    """

    reads_model: ClassVar[bool] = False
    needs_model: ClassVar[bool] = False
    uses_query: ClassVar[bool] = True

    @abstractmethod
    def scores(self, texts: Sequence[str], retrieved: Retrieved) -> Tensor:
        """Log-scores of the labels, ``[batch, labels]``; softmax over them gives probabilities."""

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The scores, and nothing for a model."""
        return Conditioning(scores=self.scores(texts, retrieved))

    @property
    def encoder(self) -> Encoder:
        """The encoder of its inputs."""
        if self.ready.encoder is None:
            raise ConfigError(f"{self.name} needs an encoder")
        return self.ready.encoder


def check_labels(name: str, rows: Sequence[Example]) -> None:
    """Raise where there is nothing to tell apart.

    Raises:
        DataError: The training rows have one label.
    """
    if len({row.target for row in rows}) < 2:
        raise DataError(f"{name} needs training rows of at least two labels", got="one label")


def log_scores(probabilities: NDArray[np.float64]) -> Tensor:
    """Scores whose softmax is these probabilities, ``[batch, labels]``; float64, so that near ties stay apart.

    >>> log_scores(np.array([[0.5, 0.5, 0.0]])).softmax(-1).tolist()
    [[0.5, 0.5, 0.0]]
    """
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.maximum(np.log(probabilities), NEVER))


@contextmanager
def scikit_learn() -> Iterator[None]:
    """Around its imports: where it is not installed, the error names the extra."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", "A classifier without a language model") from error


def compact(features: Any) -> Any:
    """Fingerprints as a sparse matrix, which scikit-learn handles many times faster; the rest as it is."""
    from scipy.sparse import csr_array, issparse

    if issparse(features) or np.count_nonzero(features) >= 0.1 * features.size:
        return features
    return csr_array(features)
