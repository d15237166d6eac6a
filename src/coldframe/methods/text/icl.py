"""In-context learning: exemplars in the prompt, the same for all queries or retrieved for each."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import ClassVar, Literal

from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method
from coldframe.methods.search_space import Choices, Integers, SearchSpace
from coldframe.methods.text.zero_shot import ZeroShotConfig
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.prompts import with_instruction, with_solved
from coldframe.tasks.task import Example, Schema, Task

Order = Literal["nearest-last", "nearest-first", "random"]


@dataclasses.dataclass(frozen=True)
class ICLConfig(ZeroShotConfig):
    """Settings of in-context learning.

    Args:
        k: Exemplars in the prompt, at least 1.
        order: Which exemplar stands next to the query; ``"random"`` is an order that the exemplars alone decide.
        solved: At most so many solved examples before what is retrieved, the same for all queries, drawn by the seed
            of training. None: 2 where passages are retrieved, which show no answer, else none.
    """

    section = "ICL settings"
    at_least = {"k": 1, "solved": 0}
    at_most = {"solved": 1_024}

    k: int = 5
    order: Order = "nearest-last"
    solved: int | None = None


class RetrievedICL(Method):
    """Text RAG: ``p(y | s_1 ... s_S x_K y_K ... x_1 y_1 x)`` with the K nearest exemplars, the nearest last.

    ``s`` are solved examples that stand before every query. Where passages are retrieved, these alone show what form an
    answer has: each is a passage, a question about it and its answer, and none is about a passage that is asked about.

    Paper: Brown et al. 2020 (in-context learning); retrieved per query as in the ICL rows of MHA-ESP.
    The papers do not state the order; ours puts the nearest exemplar next to the query. Where the model's
    context is too short, what stands first is dropped, and counted.

    Cost:
        No parameters; about K times the query's tokens, read anew for every query. Instruction and solved examples are
        read once for a batch of queries if they are longer than what follows them.
    """

    name: ClassVar[str] = "icl"
    config_class = ICLConfig
    config: ICLConfig
    order_invariant: ClassVar[bool] = False
    uses_retrieval: ClassVar[bool] = True
    trainable: ClassVar[bool] = False
    reads_text: ClassVar[bool] = True
    port: ClassVar[str | None] = "text"
    query_settings: ClassVar[tuple[str, ...]] = ("k", "order")
    search_space: ClassVar[SearchSpace] = {
        "k": Integers(1, 32, log=True),
        "order": Choices(("nearest-last", "nearest-first", "random")),
        "instruction": Choices((None, "", "auto")),
        "solved": Integers(0, 8),
    }
    ablations: ClassVar[tuple[str, ...]] = ("swapped-store",)

    def schema_for(self, task: Task, seed: int = 0) -> Schema:
        """With the instruction and the solved examples."""
        task = dataclasses.replace(task, schema=with_instruction(task, self.config.instruction))
        return with_solved(task, self.config.solved, seed)

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The exemplars, rendered by the task's template."""
        return Conditioning(contexts=self.contexts(texts, retrieved))

    def contexts(self, texts: Sequence[str], retrieved: Retrieved) -> tuple[tuple[str, ...], ...]:
        """For each query the solved examples, but itself, and its first ``k`` exemplars in their order."""
        schema, k = self.ready.schema, self.config.k
        solved = [(entry[0], schema.solved_example(entry, k)) for entry in schema.solved]
        contexts = rendered(schema, retrieved, k, self.config.order)
        return tuple(
            (*(block for question, block in solved if question != text), *blocks)
            for text, blocks in zip(texts, contexts, strict=True)
        )


class FixedICL(RetrievedICL):
    """The same K exemplars before every query: in-context learning without retrieval.

    The exemplars are drawn once, by class in turn, from the store (the ``fixed`` strategy of
    :class:`coldframe.retrieval.Retriever`).

    Cost:
        No parameters; the exemplars' states are computed once and shared by all queries.
    """

    name: ClassVar[str] = "icl-fixed"
    strategy: ClassVar[str] = "fixed"


def rendered(
    schema: Schema, retrieved: Retrieved, k: int, order: Order = "nearest-last"
) -> tuple[tuple[str, ...], ...]:
    """For each query its first ``k`` exemplars as prompt text, in their order."""
    rows = (_ordered(retrieved.examples(row)[:k], order) for row in range(len(retrieved)))
    return tuple(tuple(map(schema.rendered, examples)) for examples in rows)


def _ordered(examples: Sequence[Example], order: Order) -> Sequence[Example]:
    """Exemplars, nearest first, in the order in which they stand before a query."""
    if order == "random":
        examples = sorted(examples, key=lambda entry: entry.id)
        return random.Random(repr([entry.id for entry in examples])).sample(examples, len(examples))
    return examples if order == "nearest-first" else examples[::-1]
