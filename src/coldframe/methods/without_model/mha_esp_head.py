"""MHA-ESP with a linear head in the place of the language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from coldframe.frozen.ports import Conditioning
from coldframe.methods.config import MethodContext
from coldframe.methods.soft_tokens.mha_esp import MHAESP
from coldframe.retrieval.store import Retrieved


class MHAESPHead(MHAESP):
    """MHA-ESP without the language model, a linear head in its place: ``p(y | x) = softmax(W [z_1 ... z_H] + b)``.

    Encoder, exemplars, attention, training and every setting are MHA-ESP's own; the frozen model gives the soft tokens
    their width and scale, and is not run. The model is worth what MHA-ESP has over this control.

    Paper: none; the control "encoder + linear head" of a comparison.

    Cost:
        MHA-ESP's parameters and ``H d labels`` more; no token is read.
    """

    name: ClassVar[str] = "mha-esp-head"
    paper: ClassVar[str] = ""
    reads_model: ClassVar[bool] = False
    port: ClassVar[str | None] = None

    def build(self, context: MethodContext) -> None:
        """The method's parameters, and a head that starts at zero."""
        super().build(context)
        self.head = nn.Linear(self.config.heads * context.lm.d_model, len(context.schema.labels))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def ports(self) -> frozenset[str]:
        """None."""
        return frozenset()

    @property
    def soft_token_count(self) -> int:
        """None: the tokens go into the head."""
        return 0

    @property
    def shares_text(self) -> bool:
        """No: no text is read."""
        return False

    def contexts(self, texts: Sequence[str], retrieved: Retrieved) -> None:
        """None: there is no prompt."""

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """Scores of the head on MHA-ESP's soft tokens."""
        conditioning = super().condition(texts, retrieved)
        assert conditioning.soft_tokens is not None  # MHA-ESP always fills this port
        scores: Tensor = self.head(conditioning.soft_tokens.flatten(1))
        return dataclasses.replace(conditioning, soft_tokens=None, scores=scores)
