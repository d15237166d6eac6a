"""Labels as vectors, in the language of the frozen model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coldframe.methods.config import MethodContext
from coldframe.methods.entry_vectors import one_hot_labels
from coldframe.tasks.task import Example


class LabelVectors(nn.Module):
    """``y_k``, what an exemplar's label says: the frozen model's embedding of its word, at norm 1.

    Of a word of several tokens, the mean embedding. Vectors of labels start there and are learned. The targets of a
    generation task are texts, whose vectors stay there. A passage has no label: its vector is zero.

    Args:
        context: Model and schema.

    Cost:
        ``d`` parameters for each label of a classification task.
    """

    context: MethodContext

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        object.__setattr__(self, "context", context)  # not a submodule: the frozen model is never ours to save
        schema = context.schema
        self.table = nn.Parameter(self._of_words(schema.words).cpu()) if schema.kind == "classification" else None

    def forward(self, entries: Sequence[Example]) -> Tensor:
        """``[n, d]``."""
        schema = self.context.schema
        if self.table is None:
            return self._of_words([entry.target for entry in entries])
        # Its gradient adds up repeated labels in one order, which that of table[labels] does not.
        return one_hot_labels(schema, entries).to(self.table) @ self.table

    @torch.no_grad()
    def _of_words(self, words: Sequence[str]) -> Tensor:
        lm, template = self.context.lm, self.context.schema.template
        vectors = torch.zeros(len(words), lm.d_model, device=lm.device)
        for row, word in enumerate(words):
            if word:  # a passage has none
                ids = lm.tokenize(template.answer(word))
                vectors[row] = lm.embed(torch.tensor(ids, device=lm.device)).float().mean(0)
        return nn.functional.normalize(vectors, dim=-1)
