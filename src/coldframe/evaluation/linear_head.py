"""The control that keeps everything of a method but the language model: a linear head reads its soft tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from coldframe.config import check
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, LanguageModel, Prompt
from coldframe.methods.base import MethodContext
from coldframe.methods.soft_tokens.mha_esp import MHAESP

NAME = "encoder + linear head"


class HeadedMHAESP(MHAESP):
    """MHA-ESP with a linear head where the model was: ``p(y | x) = softmax(W [z_1 ... z_H] + b)``.

    Encoder, exemplars, attention, training loop and early stopping are the method's own; only what reads the
    soft tokens differs: the frozen model gives them their width and scale, and is not run. What the method has over
    this control, the language model added.

    Args:
        **settings: Of MHA-ESP.
    """

    def __init__(self, **settings: Any) -> None:
        # Prefix placement has no text states to prepare.
        super().__init__(**{**settings, "placement": "prefix", "text_exemplars": 0})

    def build(self, context: MethodContext) -> None:
        """The method's parameters, and a head that starts at zero."""
        check(context.schema.kind == "classification", "A linear head needs labels", got=context.schema.kind)
        super().build(context)
        self.head = nn.Linear(self.config.heads * context.lm.d_model, len(context.schema.labels))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def label_scores(
        self, lm: LanguageModel, prompts: Sequence[Prompt], words: Sequence[str], conditioning: Conditioning
    ) -> Tensor:
        """Logits of the head, ``[batch, labels]``; the prompts are not read."""
        assert conditioning.soft_tokens is not None  # MHA-ESP always fills this port
        scores: Tensor = self.head(conditioning.soft_tokens.flatten(1))
        return scores + scores.new_tensor(self.label_bias) if self.label_bias else scores

    def label_losses(
        self,
        lm: FrozenLM,
        prompts: Sequence[Prompt],
        words: Sequence[str],
        targets: Sequence[int],
        conditioning: Conditioning,
    ) -> Tensor:
        """Cross-entropies of the head's logits."""
        scores = self.label_scores(lm, prompts, words, conditioning)
        return nn.functional.cross_entropy(scores, torch.tensor(targets, device=scores.device), reduction="none")
