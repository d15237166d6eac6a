"""Controls that are trained like a method, with one part of it taken away."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coldframe.config import check
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, LanguageModel, Prompt
from coldframe.methods.base import Method, MethodContext
from coldframe.methods.soft_tokens.mha_esp import MHAESP
from coldframe.retrieval.store import Retrieved, Store

_COPIED = ("name", "paper", "uses_encoder", "trainable", "strategy", "learning_rate")


class ConstantInput(Method):
    """A method without its input, which is the same for all queries: ``C(x, S) = C(x_0, S_0)``.

    Parameters, their initial values and their learning rates are the method's own; nothing of the query is left in
    what it puts into the model (which still reads the query's text). The input is worth what the method has over
    this control.

    Args:
        inner: The method; not set up, or it is set up again.
        text: ``x_0``, the query it is given every time.
        retrieved: ``S_0``, what was retrieved for that query: one row.
    """

    def __init__(self, inner: Method, text: str, retrieved: Retrieved) -> None:
        super().__init__(inner.config)
        self.inner, self.text, self.retrieved = inner, text, retrieved
        for name in _COPIED:
            setattr(self, name, getattr(inner, name))

    def build(self, context: MethodContext) -> None:
        """The method's parameters, which start as they do without this."""
        object.__setattr__(self.inner, "context", context)  # not a submodule, as in Method.setup
        self.inner.build(context)

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """What the method makes of the constant input, for every query; dropout still differs between rows."""
        count = len(texts) if self.training else 1
        conditioning = self.inner.condition([self.text] * count, self.retrieved.rows([0] * count))
        changes: dict[str, Any] = {"attention": None}  # to exemplars that were not retrieved for these queries
        if conditioning.contexts is not None:
            changes["contexts"] = conditioning.contexts[:1] * len(texts)
        if conditioning.soft_tokens is not None and not self.training:
            changes["soft_tokens"] = conditioning.soft_tokens.reshape(conditioning.soft_tokens.shape[-2:])
        return dataclasses.replace(conditioning, **changes)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Those of the method."""
        return self.inner.parameter_groups(learning_rate)

    def step_figures(self) -> dict[str, float]:
        """Those of the method."""
        return self.inner.step_figures()


class HeadedMHAESP(MHAESP):
    """MHA-ESP without the language model, a linear head in its place: ``p(y | x) = softmax(W [z_1 ... z_H] + b)``.

    Encoder, exemplars, attention, training loop and early stopping are the method's own; the frozen model gives the
    soft tokens their width and scale, and is not run. The model is worth what the method has over this control.

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
        return self.biased(scores)

    def label_losses(
        self,
        lm: FrozenLM,
        prompts: Sequence[Prompt],
        words: Sequence[str],
        targets: Sequence[int],
        conditioning: Conditioning,
    ) -> Tensor:
        """Cross-entropies of the head's logits, ``[batch]``."""
        scores = self.label_scores(lm, prompts, words, conditioning)
        return nn.functional.cross_entropy(scores, torch.tensor(targets, device=scores.device), reduction="none")


def shuffled_labels(store: Store, seed: int) -> Store:
    """The same exemplars with their labels permuted: similar ones are still retrieved, but their labels are noise.

    >>> from coldframe.tasks.task import Example
    >>> rows = [Example(str(i), "yes" if i % 2 else "no", f"{i}", f"{i}") for i in range(6)]
    >>> [e.target for e in shuffled_labels(Store.of(rows), seed=0).examples]
    ['yes', 'no', 'yes', 'no', 'no', 'yes']
    """
    order = np.random.default_rng(seed).permutation(len(store))
    targets = [store.examples[i].target for i in order]
    return Store(tuple(dataclasses.replace(e, target=t) for e, t in zip(store.examples, targets, strict=True)))
