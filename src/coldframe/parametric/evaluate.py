"""Is it worth it? The same questions closed book, with passages in prompt, weights or both, and controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from coldframe.evaluation.intervals import Interval, score_interval
from coldframe.evaluation.predictions import Predictions
from coldframe.methods.weight_deltas.adapters import mean_cosine
from coldframe.parametric.encoded import Encoded
from coldframe.parametric.settings import AskConfig
from coldframe.tasks.corpus import Question
from coldframe.training.progress import Bar

METRICS = ("token_f1", "exact_match", "contains")


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to answer, measured.

    Attributes:
        name: See :func:`coldframe.parametric.encoded.name_of`.
        scores: By metric, percent with a 95% interval.
        seconds: Per question, retrieval, adapters and generation counted.
        predictions: What was answered.
    """

    name: str
    scores: dict[str, Interval]
    seconds: float
    predictions: Predictions

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the answers."""
        scores = {metric: found.to_dict() for metric, found in self.scores.items()}
        return {"name": self.name, "scores": scores, "seconds_per_question": self.seconds}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All ways, and how often retrieval found what it should.

    Attributes:
        ways: In the order they were measured.
        recall: Share of the questions whose passages were all among the k retrieved; None where they are not known.
        n: Questions.
        cosine: Between the updates of different passages, in the mean over a sample of them; near 1 all passages have
            the same adapter. None where there is one passage.
    """

    ways: tuple[Way, ...]
    recall: float | None
    n: int
    cosine: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        known = {"n": self.n, "retrieval_recall": self.recall, "adapter_cosine": self.cosine}
        return {**known, "ways": [way.to_dict() for way in self.ways]}


def ways(encoded: Encoded, base: AskConfig, controls: bool = True) -> list[AskConfig]:
    """The settings to measure: four modes, and for parameters alone the controls that the method has.

    Args:
        encoded: The corpus.
        base: Everything else.
        controls: Also adapters of another question, and routing that is uniform or random.
    """
    found = [base.replace(mode=mode) for mode in ("closed-book", "passages", "parameters", "both")]
    if controls:
        alone = base.replace(mode="parameters")
        found.append(alone.replace(swapped=True))
        if encoded.described.method == "poly-prag":
            found += [alone.replace(routing="uniform"), alone.replace(routing="random")]
    return found


def evaluate(
    encoded: Encoded, questions: Sequence[Question], settings: Sequence[AskConfig], quiet: bool = False
) -> Evaluation:
    """Answer the same questions in several ways.

    Args:
        encoded: The corpus.
        questions: At least one.
        settings: From :func:`ways`, or your own.
        quiet: No progress bar.
    """
    found = []
    with Bar(len(settings) * len(questions), "ask", quiet) as bar:
        for one in settings:
            predictions = encoded.answer(questions, one)
            scores = {metric: score_interval([predictions], metric) for metric in METRICS}
            found.append(Way(predictions.method, scores, predictions.seconds / len(questions), predictions))
            bar.advance(len(questions))
    return Evaluation(tuple(found), _recall(encoded, questions, settings[0]), len(questions), adapter_cosine(encoded))


def adapter_cosine(encoded: Encoded, passages: int = 50) -> float | None:
    """How alike the adapters of different passages are; see :func:`mean_cosine` of the adapters.

    Args:
        encoded: The corpus.
        passages: How many of them to compare, evenly over their order.
    """
    ids = encoded.bank.ids
    count = min(passages, len(ids))
    if count < 2:
        return None
    some = [ids[i * len(ids) // count] for i in range(count)]
    return mean_cosine(encoded.bank.layout, encoded.bank.adapters(some))


def _recall(encoded: Encoded, questions: Sequence[Question], config: AskConfig) -> float | None:
    known = [one for one in questions if one.passages]
    if not known:
        return None
    retrieved = encoded.retrieve(known, config)
    hits = [set(one.passages) <= {e.id for e in retrieved.examples(row)} for row, one in enumerate(known)]
    return sum(hits) / len(hits)
