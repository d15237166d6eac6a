"""What waits for an answer of a model, and the answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldframe.inference.run import Outcome
from coldframe.retrieval.store import Retrieved
from coldframe.serving.gateway.adapters import Adapter
from coldframe.serving.gateway.batcher import Job
from coldframe.serving.gateway.store_edits import Overrides
from coldframe.tasks.task import Example


@dataclasses.dataclass(kw_only=True)
class Query(Job):
    """Inputs for an adapter.

    Attributes:
        adapter: As it was when the request came.
        texts: The inputs.
        overrides: Changes of the store for them.
        max_new_tokens: Longest written answer; the task's own, if None.
    """

    adapter: Adapter
    texts: Sequence[str]
    overrides: Overrides = dataclasses.field(default_factory=Overrides)
    max_new_tokens: int | None = None

    @property
    def stands_alone(self) -> bool:
        """Whether it cannot be answered in one call with other requests for its adapter."""
        return bool(self.overrides) or self.max_new_tokens is not None


@dataclasses.dataclass(kw_only=True)
class Work(Job):
    """Anything else that needs the model: it is called alone, and its result is the answer."""

    call: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers to the inputs of a request, in their order.

    Shapes:
        probabilities: ``[n, labels]``; attention: ``[n, m, k]`` or None; generated: n texts or None; tokens: n
        numbers, positions that the model read.
    """

    adapter: Adapter
    probabilities: NDArray[np.float64]
    attention: NDArray[np.float32] | None
    generated: tuple[str, ...] | None
    retrieved: Retrieved
    tokens: tuple[int, ...]

    @property
    def words(self) -> list[str]:
        """The labels, or what was written."""
        if self.generated is not None:
            return list(self.generated)
        labels = self.adapter.pipeline.schema.labels
        return [labels[i] for i in self.probabilities.argmax(1)]

    def part(self, rows: slice) -> Answers:
        """Those of some inputs."""
        return Answers(
            self.adapter,
            self.probabilities[rows],
            None if self.attention is None else self.attention[rows],
            None if self.generated is None else self.generated[rows],
            self.retrieved.rows(rows),
            self.tokens[rows],
        )


def record_of(adapter: Adapter, outcome: Outcome | Answers, row: int) -> dict[str, Any]:
    """The answer to one input as JSON: label and probabilities, or what was written."""
    if outcome.generated is not None:
        return {"answer": outcome.generated[row]}
    labels, shares = adapter.pipeline.schema.labels, outcome.probabilities[row]
    return {"label": labels[int(shares.argmax())], "probabilities": dict(zip(labels, shares.tolist(), strict=True))}


@dataclasses.dataclass(frozen=True)
class Share:
    """Requests for one adapter that are answered in one call; their changes of the store are the same."""

    jobs: Sequence[Query]
    examples: Sequence[Sequence[Example]]

    @property
    def adapter(self) -> Adapter:
        """Of all of them."""
        return self.jobs[0].adapter

    @property
    def queries(self) -> list[Example]:
        """The inputs of all of them."""
        return [example for examples in self.examples for example in examples]

    def split(self) -> list[Share]:
        """One for each request."""
        return [Share([job], [examples]) for job, examples in zip(self.jobs, self.examples, strict=True)]

    def deliver(self, answers: Answers) -> None:
        """Give every request its own."""
        start = 0
        for job, examples in zip(self.jobs, self.examples, strict=True):
            job.future.set_result(answers.part(slice(start, start + len(examples))))
            start += len(examples)

    def fail(self, error: Exception) -> None:
        """Give every request the error."""
        for job in self.jobs:
            job.future.set_exception(error)
