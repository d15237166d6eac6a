"""The control that keeps everything of a method but the language model: a linear head reads its soft tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from coldframe.config import check
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.methods.base import MethodContext
from coldframe.methods.soft_tokens.mha_esp import MHAESP

NAME = "encoder + linear head"


class HeadedMHAESP(MHAESP):
    """MHA-ESP with a linear head where the model was: ``p(y | x) = softmax(W [z_1 ... z_H] + b)``.

    Encoder, exemplars, attention, training loop and early stopping are the method's own; only what reads the
    soft tokens differs. What the method has over this control, the language model added.
    """

    def build(self, context: MethodContext) -> None:
        """The method's parameters, and a head that starts at zero."""
        check(context.schema.kind == "classification", "A linear head needs labels", got=context.schema.kind)
        super().build(context)
        self.head = nn.Linear(self.config.heads * context.lm.d_model, len(context.schema.labels))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class _Reader:
    """Stands in for the frozen model wherever label scores are asked for; for the rest it is the model."""

    def __init__(self, lm: FrozenLM, method: HeadedMHAESP) -> None:
        self.lm, self.method = lm, method

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lm, name)

    def label_scores(self, prompts: Sequence[Prompt], words: Sequence[str], conditioning: Conditioning) -> Tensor:
        """Logits of the head, ``[batch, labels]``; the prompts are not read."""
        assert conditioning.soft_tokens is not None  # MHA-ESP always fills this port
        scores: Tensor = self.method.head(conditioning.soft_tokens.flatten(1))
        return scores


def linear_head(lm: FrozenLM, **settings: Any) -> tuple[HeadedMHAESP, FrozenLM]:
    """A method and a model to pass to ``fit`` in the place of MHA-ESP and of ``lm``.

    Args:
        lm: The frozen model: gives the soft tokens their width and scale, and is not run.
        **settings: Of MHA-ESP.
    """
    # Prefix placement has no text states to prepare.
    method = HeadedMHAESP(**{**settings, "placement": "prefix", "text_exemplars": 0})
    return method, cast(FrozenLM, _Reader(lm, method))
