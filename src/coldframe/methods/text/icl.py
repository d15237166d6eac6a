"""In-context learning: exemplars in the prompt, the same for all queries or retrieved for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method, MethodConfig
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Schema


@dataclasses.dataclass(frozen=True)
class ICLConfig(MethodConfig):
    """Settings of in-context learning.

    Args:
        k: Exemplars in the prompt, at least 1.
    """

    section = "ICL settings"
    at_least = {"k": 1}

    k: int = 5


class RetrievedICL(Method):
    """Text RAG: ``p(y | x_K y_K ... x_1 y_1 x)`` with the K nearest exemplars, the nearest last.

    Paper: Brown et al. 2020 (in-context learning); retrieved per query as in the ICL rows of MHA-ESP.
    The papers do not state the order; ours puts the nearest exemplar next to the query. Where the model's
    context is too short the farthest exemplars are dropped, and counted.

    Cost:
        No parameters; about K times the query's tokens, read anew for every query.
    """

    name: ClassVar[str] = "icl"
    config_class = ICLConfig
    order_invariant: ClassVar[bool] = False
    uses_retrieval: ClassVar[bool] = True
    trainable: ClassVar[bool] = False
    reads_text: ClassVar[bool] = True
    port: ClassVar[str | None] = "text"
    query_settings: ClassVar[tuple[str, ...]] = ("k",)
    ablations: ClassVar[tuple[str, ...]] = ("swapped-store",)

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The exemplars, rendered by the task's template."""
        return Conditioning(contexts=self.contexts(texts, retrieved))

    def contexts(self, texts: Sequence[str], retrieved: Retrieved) -> tuple[tuple[str, ...], ...]:
        """For each query its first ``k`` exemplars, farthest first: the nearest stands next to the query."""
        return rendered(self.ready.schema, retrieved, self.config.k)


class FixedICL(RetrievedICL):
    """The same K exemplars before every query: in-context learning without retrieval.

    The exemplars are drawn once, by class in turn, from the store (the ``fixed`` strategy of
    :class:`coldframe.retrieval.Retriever`).

    Cost:
        No parameters; the exemplars' states are computed once and shared by all queries.
    """

    name: ClassVar[str] = "icl-fixed"
    strategy: ClassVar[str] = "fixed"


def rendered(schema: Schema, retrieved: Retrieved, k: int) -> tuple[tuple[str, ...], ...]:
    """For each query its first ``k`` exemplars as prompt text, farthest first."""
    rows = (reversed(retrieved.examples(row)[:k]) for row in range(len(retrieved)))
    return tuple(tuple(map(schema.rendered, examples)) for examples in rows)
