"""The control that keeps everything of a method but its input: the same query and the same exemplars for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method, MethodContext
from coldframe.retrieval.store import Retrieved

_SAME = ("name", "paper", "uses_encoder", "trainable", "strategy", "learning_rate")


class ConstantInput(Method):
    """A method that is told the same whatever is asked: ``C(x, S) = C(x_0, S_0)``.

    Parameters, their start and their learning rates are the method's own; nothing of the query is left in what it
    puts into the model (which still reads the query's text). What the method has over this control, its input
    added.

    Args:
        inner: The method; not set up, or it is set up again.
        text: ``x_0``, the query it is given every time.
        retrieved: ``S_0``, what was retrieved for that query: one row.
    """

    def __init__(self, inner: Method, text: str, retrieved: Retrieved) -> None:
        super().__init__(inner.config)
        self.inner, self.text, self.retrieved = inner, text, retrieved
        for name in _SAME:
            setattr(self, name, getattr(inner, name))

    def build(self, context: MethodContext) -> None:
        """The method's parameters, which start as they do without this."""
        object.__setattr__(self.inner, "context", context)  # not a submodule, as in Method.setup
        self.inner.build(context)

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """What the method makes of the constant input, for every query; dropout still differs between rows."""
        count = len(texts) if self.training else 1
        made = self.inner.condition([self.text] * count, self.retrieved.rows([0] * count))
        changes: dict[str, Any] = {"attention": None}  # to exemplars that nobody retrieved for these queries
        if made.contexts is not None:
            changes["contexts"] = made.contexts[:1] * len(texts)
        if made.soft_tokens is not None and not self.training:
            changes["soft_tokens"] = made.soft_tokens.reshape(made.soft_tokens.shape[-2:])
        return dataclasses.replace(made, **changes)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Those of the method."""
        return self.inner.parameter_groups(learning_rate)
