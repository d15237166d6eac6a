"""A linear head on the encoder's vector, frozen or fine-tuned, with the neighbours beside it or without."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from coldframe.config import check
from coldframe.methods.config import MethodConfig, MethodContext
from coldframe.methods.entry_vectors import gathered, one_hot_labels
from coldframe.methods.search_space import Choices, Floats, SearchSpace
from coldframe.methods.soft_tokens.set_attention import SetAttention
from coldframe.methods.soft_tokens.tuned_encoder import TunedEncoder, searched_with
from coldframe.methods.without_model.base import WithoutModel
from coldframe.retrieval.encoder_objects import spec_of
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example, Schema

_SLOPE = 10.0  # of similarities at the start: the nearest of five then counts clearly more than the fifth


@dataclasses.dataclass(frozen=True)
class EncoderHeadConfig(MethodConfig):
    """Settings of the encoder with a head.

    Args:
        encoder: Encoder of the inputs, as a spec of ``coldframe.retrieval``; ``"auto"`` takes the domain's default.
        encoder_rank: Rank of a LoRA that fine-tunes the encoder; 0 leaves it frozen. Needs a transformers encoder
            (``minilm``, ``hf:...``).
        adapter: Width of a trained layer ``tanh(W e)`` between encoder and head, at least 1; None has none.
        dropout: Share of features dropped in training, in [0, 1).
        k: Neighbours that are attended to; 0 looks at the query alone.
        heads: Heads of that attention, at least 1.
    """

    section = "encoder head settings"
    plain = {"encoder": spec_of}
    at_least = {"encoder_rank": 0, "adapter": 1, "dropout": 0, "k": 0, "heads": 1}

    encoder: str = "auto"
    encoder_rank: int = 0
    adapter: int | None = None
    dropout: float = 0.1
    k: int = 0
    heads: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.dropout < 1, "dropout must be below 1", got=self.dropout)


class EncoderHead(WithoutModel):
    """A linear classifier on an encoder: ``p(y | x) = softmax(W f(x) + b)``.

    With ``h(t) = sqrt(d) E(t) / |E(t)|``, after it ``tanh(A h)`` where there is an adapter::

        f(x) = h(x)                                                  k = 0
        f(x) = [h(x), r_1, v_1, ..., r_H, v_H]                       k > 0, for head i over the neighbours j:
               r_i = sum_j a_ij h(x_j)     v_i = sum_j a_ij onehot(y_j)
               a_ij = softmax_j(q_i . k_ij / sqrt(d) + g_i s_j)      q_i = W_i^Q h(x),  k_ij = W_i^K h(x_j)

    ``s_j`` is the retriever's similarity. All of it is trained at one rate; the head starts at the vote of the
    neighbours, ``W v_i = mean_i v_i``, and at zero in everything else.

    Paper: none; the baseline that a method with an encoder has to beat. Fine-tuning is LoRA's (arXiv 2106.09685).

    Shapes:
        h ``[batch, d]``, neighbours ``[batch, k, d]`` -> scores ``[batch, labels]``.

    Cost:
        ``d labels`` parameters; with neighbours ``2 H d^2`` more, with LoRA ``r (in + out)`` for every linear of the
        encoder, whose texts are then encoded anew at every step.

    Example:
        >>> EncoderHead(encoder_rank=16)
        EncoderHead(encoder_rank=16)
    """

    name: ClassVar[str] = "encoder-head"
    config_class = EncoderHeadConfig
    config: EncoderHeadConfig
    uses_encoder: ClassVar[bool] = True
    uses_retrieval: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-3
    search_space: ClassVar[SearchSpace] = {
        "training.learning_rate": Floats(1e-4, 1e-2),
        "training.epochs": Choices((4, 8, 16)),
        "encoder_rank": Choices((0, 8, 16, 32)),
        "adapter": Choices((None, 256)),
        "dropout": Choices((0.0, 0.1, 0.3)),
        "k": Choices((0, 5)),
    }

    def __init__(self, config: MethodConfig | None = None, **settings: object) -> None:
        super().__init__(config, **settings)
        setattr(self, "uses_retrieval", self.config.k > 0)  # noqa: B010 - that of the class holds for no settings

    def searched(self, schema: Schema) -> SearchSpace:
        """Without the encoder's rank, where the encoder cannot be fine-tuned."""
        return searched_with(self.config.encoder, schema, super().searched(schema))

    def build(self, context: MethodContext) -> None:
        """The head, and what else the settings want."""
        encoder, labels, heads = self.encoder, len(context.schema.labels), self.config.heads
        rank, width = self.config.encoder_rank, self.config.adapter
        self.tuned = TunedEncoder(encoder, rank) if rank else None
        self.adapter = None if width is None else nn.Linear(encoder.dim, width)
        self.drop = nn.Dropout(self.config.dropout)
        d = width or encoder.dim
        with_neighbours = self.config.k > 0
        self.attention = SetAttention((d, d), heads, d, "dot", "raw", _SLOPE) if with_neighbours else None
        self.head = nn.Linear(d + with_neighbours * heads * (d + labels), labels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if with_neighbours:
            self.head.weight.data[:, d + heads * d :] = torch.eye(labels).repeat(1, heads) / heads

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of unit variance, adapted: ``[n, d]``."""
        encoder = self.encoder
        encoded = torch.from_numpy(encoder.encode(list(texts))) if self.tuned is None else self.tuned(list(texts))
        unit = nn.functional.normalize(encoded.to(self.ready.lm.device), dim=-1)
        vectors = self.drop(unit * encoder.dim**0.5)
        return vectors if self.adapter is None else torch.tanh(self.adapter(vectors))

    def scores(self, texts: Sequence[str], retrieved: Retrieved) -> Tensor:
        """Scores of the head, ``[batch, labels]``."""
        own = self.encode(texts)
        neighbours = () if self.attention is None else self._read(self.attention, own, retrieved)
        scores: Tensor = self.head(torch.cat((own, *neighbours), dim=-1))
        return scores

    def _read(self, attention: SetAttention, own: Tensor, retrieved: Retrieved) -> tuple[Tensor, Tensor]:
        """What the heads read of the neighbours: texts ``[batch, heads d]`` and labels ``[batch, heads labels]``."""
        near = retrieved.ranked().top(self.config.k).canonical()  # one order, so that sums agree to the bit
        d, device = own.shape[-1], own.device
        values, present = gathered(near, self._entries, d + len(self.ready.schema.labels), device)
        weights = attention(own, values[..., :d], present, torch.from_numpy(near.scores).to(device))
        read = torch.einsum("bhk,bkw->bhw", weights, values)
        return read[..., :d].flatten(1), read[..., d:].flatten(1)

    def _entries(self, entries: Sequence[Example]) -> Tensor:
        """Texts and labels of entries, ``[entries, d + labels]``."""
        texts = self.encode([entry.text for entry in entries])
        return torch.cat((texts, one_hot_labels(self.ready.schema, entries).to(texts.device)), dim=-1)
