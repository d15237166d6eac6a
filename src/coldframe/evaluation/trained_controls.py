"""Controls that are trained like a method, with one part of it taken away."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method
from coldframe.methods.config import MethodContext
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
