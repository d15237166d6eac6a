"""U-ESP: one soft token for the query and all its exemplars together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from coldframe.frozen.ports import Conditioning
from coldframe.methods.config import MethodContext
from coldframe.methods.search_space import Choices, SearchSpace
from coldframe.methods.soft_tokens.base import EncodedConfig, EncodedMethod
from coldframe.retrieval.store import Retrieved


@dataclasses.dataclass(frozen=True)
class ESPConfig(EncodedConfig):
    """Settings of U-ESP and P-ESP.

    Args:
        k: Exemplars K, at least 1.
    """

    section = "ESP settings"
    at_least = {"k": 1}

    k: int = 5


class UESP(EncodedMethod):
    """Unified exemplar soft prompt: ``z = M E(x (+) x_1 (+) y_1 ... (+) x_K (+) y_K)``, one token.

    Paper: the xRAG baseline of MHA-RAG (arXiv 2510.05363), U-ESP in its second version. ``(+)`` is text
    concatenation. Deviates for encoders that do not read text (fingerprints): ``(+)`` concatenates vectors,
    ``[e_x; e_1; y_1; ...; e_K; y_K]``. Either way the result depends on the exemplars' order.

    Cost:
        ``d (d' + 1)`` parameters (plus adapter and static part), 1 token.
    """

    name: ClassVar[str] = "u-esp"
    paper: ClassVar[str] = "arXiv 2510.05363"
    config_class = ESPConfig
    config: ESPConfig
    order_invariant: ClassVar[bool] = False
    uses_retrieval: ClassVar[bool] = True
    search_space: ClassVar[SearchSpace] = {**EncodedMethod.search_space, "k": Choices((3, 5, 10))}

    def build(self, context: MethodContext) -> None:
        """One linear layer to one token."""
        self.build_inputs(context, 1)
        wide = self.d_in if self.label_in_text else self.d_in + self.config.k * (self.d_in + self.d_label)
        self.project = self.scaled_linear(wide, context.lm.d_model)

    @property
    def makes_entry_vectors(self) -> bool:
        """Whether entries are encoded one by one: where labels enter as text, query and entries are one text."""
        return not self.label_in_text

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """Generate ``[batch, 1, d]``."""
        tokens = self.project(self._joined(texts, retrieved.top(self.config.k))).unsqueeze(1)
        return Conditioning(soft_tokens=self.placed(tokens), placement=self.config.placement)

    def _joined(self, texts: Sequence[str], retrieved: Retrieved) -> Tensor:
        if self.label_in_text:
            return self.encode(
                ["\n".join([text, *map(self.solved, retrieved.examples(row))]) for row, text in enumerate(texts)]
            )
        vectors, _ = self.exemplar_vectors(retrieved)
        vectors = torch.nn.functional.pad(vectors, (0, 0, 0, self.config.k - vectors.shape[1]))
        return torch.cat((self.encode(texts), vectors.flatten(1)), dim=-1)
