"""P-ESP: one soft token for each exemplar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from coldframe.frozen.ports import Conditioning
from coldframe.methods.config import MethodContext
from coldframe.methods.soft_tokens.u_esp import UESP
from coldframe.retrieval.store import Retrieved


class PESP(UESP):
    """Pointwise exemplar soft prompt: ``z_k = M E(x (+) x_k (+) y_k)``, the same ``M`` for every exemplar.

    Paper: the xRAG-K baseline of MHA-RAG (arXiv 2510.05363), P-ESP in its second version. Deviates as
    :class:`UESP` does for encoders that do not read text: ``[e_x; e_k; y_k]``. The tokens stand in the
    order of the exemplars, nearest last, so the order matters.

    Cost:
        ``d (d' + 1)`` parameters (plus adapter and static part), K tokens.
    """

    name: ClassVar[str] = "p-esp"

    def build(self, context: MethodContext) -> None:
        """One linear layer, used K times."""
        self.build_inputs(context, self.config.k)
        wide = self.d_in if self.label_in_text else 2 * self.d_in + self.d_label
        self.project = self.scaled_linear(wide, context.lm.d_model)

    @property
    def soft_token_count(self) -> int:
        """One for each exemplar."""
        return self.config.k

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """Generate ``[batch, K, d]``; absent exemplars give the projection of nothing."""
        tokens = self.project(self._paired(texts, retrieved.top(self.config.k))).flip(1)
        return Conditioning(soft_tokens=self.placed(tokens), placement=self.config.placement)

    def _paired(self, texts: Sequence[str], retrieved: Retrieved) -> Tensor:
        k = self.config.k
        if self.label_in_text:
            pairs = []
            for row, text in enumerate(texts):
                solved = [f"{text}\n{self.solved(e)}" for e in retrieved.examples(row)]
                pairs += solved + [text] * (k - len(solved))
            return self.encode(pairs).view(len(texts), k, -1)
        vectors, _ = self.exemplar_vectors(retrieved)
        vectors = torch.nn.functional.pad(vectors, (0, 0, 0, k - vectors.shape[1]))
        queries = self.encode(texts).unsqueeze(1).expand(-1, k, -1)
        return torch.cat((queries, vectors), dim=-1)
