"""Ways to change what was retrieved and nothing else: shuffled contents, vectors without information."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from coldframe.diagnosis.subject import Condition
from coldframe.evaluation.trained_controls import shuffled_labels
from coldframe.methods.base import EntryVectors
from coldframe.retrieval.store import Retrieved, Store
from coldframe.tasks.task import Passage

StandIn: TypeAlias = Literal["gaussian", "mean"]

#: Conditions that a seed decides; the others are the same for every seed.
DRAWN: frozenset[Condition] = frozenset({"swapped", "swapped-conditioning", "random", "fixed", "shuffled", "gaussian"})

MOMENT_ROWS = 20_000  # entries that mean and covariance are taken from; more would change neither

_WORD = re.compile(r"\S+")


def deal_words(texts: Iterable[str], rng: np.random.Generator) -> Mapping[str, str]:
    """Every text with the words of all texts dealt out anew; spaces and line breaks stay.

    >>> deal_words(["a b", "c"], np.random.default_rng(0))
    {'a b': 'c a', 'c': 'b'}
    """
    distinct = list(dict.fromkeys(texts))
    words = [word for text in distinct for word in _WORD.findall(text)]
    dealt = (words[i] for i in rng.permutation(len(words)))
    return {text: _WORD.sub(lambda _: next(dealt), text) for text in distinct}


def shuffled_contents(store: Store, seed: int) -> Store:
    """The same entries with other contents: exemplars with permuted labels, passages with words dealt out anew."""
    if not any(isinstance(entry, Passage) for entry in store.examples):
        return shuffled_labels(store, seed)
    dealt = deal_words((e.text for e in store.examples if isinstance(e, Passage)), np.random.default_rng(seed))
    return Store(
        tuple(
            dataclasses.replace(e, text=dealt[e.text], title="", body=dealt[e.text]) if isinstance(e, Passage) else e
            for e in store.examples
        )
    )


class UninformativeVectors:
    """Something without information in the place of every entry's vector, see ``Method.with_entry_vectors``.

    With the vectors ``e_s`` of the store's N entries, labels included, as the method sees them::

        mean: e = mean_s(e_s)        gaussian: e ~ N(mean_s(e_s), Cov_s(e_s)), drawn anew each time

    How many entries a query has stays. A method that is being trained changes how it sees the store; the moments are
    those of the first call, without dropout. Cost: every entry encoded once, and a QR decomposition of ``[N, d]``.
    """

    def __init__(self, kind: StandIn, seed: int = 0) -> None:
        self.kind = kind
        self._generator = torch.Generator().manual_seed(seed)
        self._lock = threading.Lock()
        self._moments: tuple[Tensor, Tensor] | None = None

    def __call__(self, method: nn.Module, vectors_of: EntryVectors, retrieved: Retrieved) -> tuple[Tensor, Tensor]:
        """Vectors for a batch, and which are present."""
        with self._lock:
            if self._moments is None:
                self._moments = _moments(method, vectors_of, retrieved.store)
            mean, root = self._moments
            present = torch.from_numpy(retrieved.indices >= 0).to(mean.device)
            vectors = mean.expand(*present.shape, -1)
            if self.kind == "gaussian":
                noise = torch.randn(*present.shape, len(root), generator=self._generator)
                vectors = vectors + noise.to(mean.device) @ root
        return vectors * present.unsqueeze(-1), present


@torch.no_grad()
def _moments(method: nn.Module, vectors_of: EntryVectors, store: Store) -> tuple[Tensor, Tensor]:
    """Mean ``[d]`` of the store's vectors, and a root R of their covariance, ``R^T R = Cov``."""
    rows = np.unique(np.linspace(0, len(store) - 1, min(MOMENT_ROWS, len(store))).astype(np.int64))[:, None]
    was_training = method.training
    method.eval()
    vectors = vectors_of(Retrieved(store, rows, np.zeros(rows.shape, np.float32)))[0][:, 0]
    method.train(was_training)
    mean = vectors.mean(0)
    return mean, torch.linalg.qr((vectors - mean) / max(len(rows) - 1, 1) ** 0.5, mode="r").R
