"""Whether something simpler than a fitted method does as well: classifiers that need no language model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from coldframe.errors import ColdframeError
from coldframe.inference.intervals import Interval, score_interval
from coldframe.pipeline.auto import Candidate, candidates_for, shown
from coldframe.pipeline.fit import fit
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Simpler:
    """The best of the simple classifiers, beside a method.

    Attributes:
        candidate: The classifier.
        score: Its score on the validation rows, with the 95% interval.
        own: The method's score on the same rows; it chose its epoch by them, which flatters it.
        metric: The task's.
    """

    candidate: Candidate
    score: Interval
    own: float
    metric: str

    @property
    def does_as_well(self) -> bool:
        """Whether the method is not ahead."""
        sign = METRICS[self.metric].sign
        return sign * self.score.value >= sign * self.own

    def line(self) -> str:
        """A sentence for people."""
        numbers = f"{self.metric} {shown(self.score)} against {self.own:.1f} on the {self.score.n} validation rows"
        if not self.does_as_well:
            return f"no simple classifier does as well: the best, {self.candidate}, has {numbers}"
        words = "better" if self.score.value != self.own else "as well"
        settings = "".join(f" --set {name}={value}" for name, value in self.candidate.settings.items())
        name = self.candidate.method
        return f"{name}, which needs no language model, does {words}: {numbers} (--method {name}{settings})"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "method": self.candidate.method,
            "settings": dict(self.candidate.settings),
            "score": self.score.to_dict(),
            "own": self.own,
            "does_as_well": self.does_as_well,
        }


def simpler_than(
    task: Task,
    own: float,
    *,
    candidates: Sequence[Candidate] | None = None,
    retrieval: RetrievalConfig | None = None,
) -> Simpler | None:
    """The best of the classifiers that fit in seconds: votes of neighbours, logistic regressions, a forest.

    They are fitted to the training rows alone and scored on the validation rows.

    Args:
        task: Of a classification, with validation rows; otherwise there is nothing to compare.
        own: The method's score on the validation rows, in the task's metric.
        candidates: What to try; None takes those of :func:`coldframe.pipeline.auto.candidates_for` that train no
            network.
        retrieval: How entries are found.

    Cost:
        The texts are encoded once, which the method may have done before; then seconds for some thousand rows.
    """
    if task.schema.kind != "classification" or not task.validation or not task.train:
        return None
    sign = METRICS[task.schema.metric].sign
    best: Simpler | None = None
    for candidate in _quick(task) if candidates is None else candidates:
        try:
            pipeline = fit(
                candidate.build(),
                None,
                dataclasses.replace(task, validation=(), test=()),
                retrieval=retrieval,
                store=Store.of(task.train) if task.store is None else None,
                quiet=True,
            )
            run = pipeline.predictions(task.validation)
        except ColdframeError:  # such as an extra that is not installed: there is one fewer to compare with
            continue
        score = score_interval([run], task.schema.metric, task.schema.positive_index)
        if math.isfinite(score.value) and (best is None or sign * score.value > sign * best.score.value):
            best = Simpler(candidate, score, own, task.schema.metric)
    return best


def _quick(task: Task) -> list[Candidate]:
    return [
        candidate
        for candidate in candidates_for(task)
        if not candidate.build().needs_model and "encoder_rank" not in candidate.settings
    ]
