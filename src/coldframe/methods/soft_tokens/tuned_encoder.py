"""An encoder that is fine-tuned with the method, by low-rank updates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from coldframe.errors import ConfigError
from coldframe.frozen.hooks import weight_deltas
from coldframe.frozen.ports import LowRank
from coldframe.retrieval.encoders import Encoder
from coldframe.retrieval.neural import HFEncoder


class TunedEncoder(nn.Module):
    """``E`` with ``W x + B A x`` in the place of every linear ``W x``; its own weights stay frozen and unsaved.

    Paper: MHA-RAG (arXiv 2510.05363) fine-tunes its encoder with LoRA of rank 64; targets and scale are not
    stated. Here: all linears but an unused pooler, scale 1.

    Cost:
        ``r (in + out)`` parameters for every linear. Every text is encoded anew at every step: nothing can
        be remembered.
    """

    def __init__(self, encoder: Encoder, rank: int) -> None:
        super().__init__()
        if not isinstance(encoder, HFEncoder):
            raise ConfigError(
                f"The encoder {encoder.spec!r} cannot be fine-tuned",
                expected="minilm or hf:<id>",
                fix="Pass encoder_rank=0, or another encoder.",
            )
        object.__setattr__(self, "encoder", encoder)  # not a submodule: its weights are not ours to save
        self.names: list[str] = []
        self.a, self.b = nn.ParameterList(), nn.ParameterList()
        for name, linear in encoder.model.named_modules():
            if isinstance(linear, nn.Linear) and "pooler" not in name:
                self.names.append(name)
                self.a.append(torch.empty(rank, linear.in_features))
                self.b.append(torch.zeros(linear.out_features, rank))
        for factor in self.a:
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))

    def forward(self, texts: list[str]) -> Tensor:
        """Vectors, ``[n, dim]``."""
        encoder: HFEncoder = self.encoder  # type: ignore[assignment]
        updates = {name: LowRank(a, b) for name, a, b in zip(self.names, self.a, self.b, strict=True)}
        with weight_deltas(encoder.model, updates):
            return encoder.pooled(texts)
