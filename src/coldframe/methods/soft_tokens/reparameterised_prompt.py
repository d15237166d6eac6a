"""Reparameterised Prompt Tuning: one prompt for the whole task, learned through a small network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from coldframe.frozen.ports import Conditioning
from coldframe.methods.config import MethodContext
from coldframe.methods.search_space import Choices, Floats, SearchSpace
from coldframe.methods.soft_tokens.base import SoftTokenConfig, SoftTokenMethod, vocabulary_prompt
from coldframe.retrieval.store import Retrieved


@dataclasses.dataclass(frozen=True)
class ReparameterisedPromptConfig(SoftTokenConfig):
    """Settings of Reparameterised Prompt Tuning.

    Args:
        tokens: Soft tokens m, at least 1.
        hidden: Width h of the network, at least 1; 512 and 800 in the paper.
    """

    section = "Reparameterised Prompt Tuning settings"
    at_least = {"tokens": 1, "hidden": 1}

    tokens: int = 8
    hidden: int = 512


class ReparameterisedPrompt(SoftTokenMethod):
    """A prompt that is learned through a network, the same for every query.

    For slot i = 1..m, with an embedding ``e_i`` in ``R^d`` of its own and one network for all slots::

        P_i = W_2 tanh(W_1 e_i + b_1) + b_2        W_1 in R^{h x d},  W_2 in R^{d x h}

    Paper: Li and Liang 2021 (Prefix-Tuning), arXiv 2101.00190. The slots share what moves them, which can be
    easier to optimise than free vectors; what can be said with the prompt is the same. Deviates: only the input
    layer is filled, a variant in the authors' code, because keys and values of every layer are no port; ``e_i``
    starts at embeddings of random vocabulary entries, scaled to norm 1, and ``W_2`` so that ``P_i`` has the norm of
    a token's embedding (the paper states no scale); suffix placement by default. There is no residual
    ``P_i + e_i``, which Residual Prompt Tuning (arXiv 2305.03937) has.

    Cost:
        ``m d + h (d + 1) + d (h + 1)`` parameters, m tokens.

    Relations:
        :class:`PromptTuning` learns the same ``m d`` parameters freely.

    Example:
        >>> ReparameterisedPrompt(tokens=4).config.hidden
        512
    """

    name: ClassVar[str] = "reparameterised-prompt-tuning"
    paper: ClassVar[str] = "arXiv 2101.00190"
    config_class = ReparameterisedPromptConfig
    config: ReparameterisedPromptConfig
    learning_rate: ClassVar[float] = 1e-3
    search_space: ClassVar[SearchSpace] = {
        "training.learning_rate": Floats(1e-4, 1e-2),
        "training.epochs": Choices((4, 8, 16)),
        "tokens": Choices((8, 16, 32)),
        "hidden": Choices((128, 512)),
    }

    def build(self, context: MethodContext) -> None:
        """The slots' embeddings and the network."""
        d, hidden = context.lm.d_model, self.config.hidden
        self.slots = nn.Parameter(nn.functional.normalize(vocabulary_prompt(context, self.config.tokens), dim=-1))
        self.inner, self.outer = nn.Linear(d, hidden), nn.Linear(hidden, d)
        with torch.no_grad():
            self.outer.bias.zero_()
            self.outer.weight *= context.lm.embedding_norm() / self.prompt().norm(dim=-1).mean().cpu()

    def prompt(self) -> Tensor:
        """The equation: ``[m, d]``."""
        tokens: Tensor = self.outer(torch.tanh(self.inner(self.slots)))
        return tokens

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The same prompt for every query."""
        return Conditioning(soft_tokens=self.prompt(), placement=self.config.placement)
