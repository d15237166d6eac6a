"""SetFit: the encoder is tuned so that texts of one label are near each other, then a logistic regression decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coldframe.frozen.model import FrozenLM
from coldframe.methods.config import MethodConfig, MethodContext
from coldframe.methods.search_space import Choices, Floats, SearchSpace
from coldframe.methods.soft_tokens.tuned_encoder import TunedEncoder, searched_with
from coldframe.methods.training_set import Problem, TrainingData, TrainingSet
from coldframe.methods.without_model.base import WithoutModel, check_labels
from coldframe.methods.without_model.logistic import LogisticLayer
from coldframe.retrieval.encoder_objects import spec_of
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example, Schema

_ENCODED_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class SetFitConfig(MethodConfig):
    """Settings of SetFit.

    Args:
        encoder: A transformers encoder (``minilm``, ``hf:...``); ``"auto"`` takes the domain's default.
        encoder_rank: Rank of the LoRA that tunes it, at least 1.
        pairs: Pairs of one label, and as many of two labels, that each row begins; at least 1. R in the paper, 20.
        c: Inverse strength of the logistic regression's penalty, above 0; 1 in the paper's library.
    """

    section = "SetFit settings"
    plain = {"encoder": spec_of}
    at_least = {"encoder_rank": 1, "pairs": 1}
    above = {"c": 0}
    at_most = {"pairs": 1_000}

    encoder: str = "auto"
    encoder_rank: int = 16
    pairs: int = 4
    c: float = 1.0


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two texts; ``same`` is 1 where their labels are the same, else 0."""

    first: str
    second: str
    same: float


class SetFit(WithoutModel):
    """Sentence transformer fine-tuning: pairs first, then a head.

    Over pairs of training rows, R of one label and R of two for every row::

        L(a, b) = (cos(E(a), E(b)) - [y_a = y_b])^2

    Then ``p(y | x) = softmax(W E(x) + b)_y`` by logistic regression on the tuned vectors of all rows.

    Paper: Tunstall et al. 2022, arXiv 2209.11055. Deviates: the encoder is tuned by a LoRA and not as a whole; R is 4,
    not 20; the epoch is chosen by the loss of pairs of validation rows; the logistic regression weighs classes where
    training does.

    Cost:
        ``4 R`` encoded texts for every row and epoch. Needs scikit-learn (extra ``train``) to be fitted.

    Example:
        >>> SetFit(pairs=8)
        SetFit(pairs=8)
    """

    name: ClassVar[str] = "setfit"
    paper: ClassVar[str] = "arXiv 2209.11055"
    config_class = SetFitConfig
    config: SetFitConfig
    uses_encoder: ClassVar[bool] = True
    learns_validation: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-3
    training_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 2, "patience": 0}
    search_space: ClassVar[SearchSpace] = {
        "training.learning_rate": Floats(1e-4, 3e-3),
        "training.epochs": Choices((1, 2, 4)),
        "encoder_rank": Choices((8, 16, 32)),
        "pairs": Choices((2, 4, 8)),
        "c": Floats(1e-2, 1e2),
    }

    def searched(self, schema: Schema) -> SearchSpace:
        """Without the encoder's rank, where the encoder cannot be fine-tuned."""
        return searched_with(self.config.encoder, schema, super().searched(schema))

    def build(self, context: MethodContext) -> None:
        """The LoRA of the encoder, and the layer that is fitted after it."""
        self.tuned = TunedEncoder(self.encoder, self.config.encoder_rank)
        self.layer = LogisticLayer(len(context.schema.labels), self.encoder.dim)

    @property
    def trained_parameters(self) -> int:
        """Those of the LoRA and of the layer."""
        return super().trained_parameters + self.layer.weight.numel() + self.layer.bias.numel()

    def problems(self, data: TrainingData) -> Iterator[Problem]:
        """The pairs; then the logistic regression is fitted at once.

        Raises:
            DataError: The training rows have one label.
        """
        train, validation = data.train, data.validation
        check_labels(self.name, train.items)
        lengths = dict(zip([row.text for row in train.items], train.lengths, strict=True))
        lengths |= dict(zip([row.text for row in validation.items], validation.lengths, strict=True))

        def paired(rows: Sequence[Example], seed: int) -> TrainingSet:
            pairs = pairs_of(rows, self.config.pairs, seed)
            return TrainingSet(pairs, [lengths[pair.first] + lengths[pair.second] for pair in pairs])

        held_out = paired(validation.items, data.seed + 1) if len(validation) else None
        yield Problem(self, paired(train.items, data.seed), held_out, name=self.name)
        rows = (*train.items, *validation.items)
        targets = np.array(self.ready.schema.targets(rows), np.int64)
        self.eval()
        vectors = self._vectors([row.text for row in rows])
        self.layer.fit(vectors, targets, self.config.c, bool(train.weights), scaled=True)

    def loss(self, lm: FrozenLM, batch: Any) -> Tensor:
        """Squared errors of the cosines of pairs, ``[n]``."""
        pairs: Sequence[Pair] = batch
        texts = [pair.first for pair in pairs] + [pair.second for pair in pairs]
        first, second = self.tuned(texts).chunk(2)
        same = torch.tensor([pair.same for pair in pairs], device=first.device)
        return (nn.functional.cosine_similarity(first, second) - same).square()

    def scores(self, texts: Sequence[str], retrieved: Retrieved) -> Tensor:
        """Scores of the layer on the tuned vectors."""
        scores: Tensor = self.layer(self._vectors(texts))
        return scores

    @torch.no_grad()
    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        parts = [
            self.tuned(list(texts[i : i + _ENCODED_AT_ONCE])).cpu().numpy()
            for i in range(0, len(texts), _ENCODED_AT_ONCE)
        ]
        return np.concatenate(parts)


def pairs_of(rows: Sequence[Example], count: int, seed: int) -> list[Pair]:
    """For every row ``count`` partners of its own label, and as many of another one, drawn with a seed.

    A row whose label, or every other label, has no row but itself goes without those pairs.

    >>> rows = [Example(t, y, t, t) for t, y in [("a", "x"), ("b", "x"), ("c", "y")]]
    >>> [(pair.first, pair.second, pair.same) for pair in pairs_of(rows, 1, seed=0)]
    [('a', 'b', 1.0), ('a', 'c', 0.0), ('b', 'a', 1.0), ('b', 'c', 0.0), ('c', 'b', 0.0)]
    """
    rng, targets = np.random.default_rng(seed), np.array([row.target for row in rows])
    pairs = []
    for place, row in enumerate(rows):
        same = np.setdiff1d(np.flatnonzero(targets == row.target), [place])
        other = np.flatnonzero(targets != row.target)
        for partners, value in ((same, 1.0), (other, 0.0)):
            if len(partners):
                chosen = rng.choice(partners, count)
                pairs += [Pair(row.text, rows[i].text, value) for i in chosen]
    return pairs
