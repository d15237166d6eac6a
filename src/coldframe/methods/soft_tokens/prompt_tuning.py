"""Prompt Tuning: one learned prompt for the whole task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from coldframe.frozen.ports import Conditioning
from coldframe.methods.config import MethodContext
from coldframe.methods.search_space import Choices, Floats, SearchSpace
from coldframe.methods.soft_tokens.base import SoftTokenConfig, SoftTokenMethod, vocabulary_prompt
from coldframe.retrieval.store import Retrieved


@dataclasses.dataclass(frozen=True)
class PromptTuningConfig(SoftTokenConfig):
    """Settings of Prompt Tuning.

    Args:
        tokens: Soft tokens m, at least 1. The MHA-RAG paper uses 1, 5 or 10.
    """

    section = "Prompt Tuning settings"
    at_least = {"tokens": 1}

    tokens: int = 8


class PromptTuning(SoftTokenMethod):
    """A free matrix in the soft-token port: ``p(y | P, x)`` with ``P`` in ``R^{m x d}``, the same for every query.

    Paper: Lester et al. 2021, arXiv 2104.08691. The control that a retrieved soft prompt must beat: same
    budget, no retrieval. Deviates: suffix placement by default.

    Cost:
        ``m d`` parameters, m tokens.
    """

    name: ClassVar[str] = "prompt-tuning"
    paper: ClassVar[str] = "arXiv 2104.08691"
    config_class = PromptTuningConfig
    config: PromptTuningConfig
    learning_rate: ClassVar[float] = 3e-2
    search_space: ClassVar[SearchSpace] = {
        "training.learning_rate": Floats(3e-3, 3e-1),
        "training.epochs": Choices((4, 8, 16)),
        "tokens": Choices((8, 16, 32)),
    }

    def build(self, context: MethodContext) -> None:
        """The prompt starts at embeddings of random vocabulary entries."""
        self.prompt = nn.Parameter(vocabulary_prompt(context, self.config.tokens))

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The same prompt for every query."""
        return Conditioning(soft_tokens=self.prompt, placement=self.config.placement)
