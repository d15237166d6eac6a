"""Is it worth it? The same questions closed book, with passages in prompt, weights or both, and controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldframe.evaluation.intervals import Interval, interval, score_interval
from coldframe.inference.predictions import Predictions, same_rows
from coldframe.methods.weight_deltas.adapters import mean_cosine
from coldframe.parametric.encoded import Encoded
from coldframe.parametric.settings import AskConfig, Mode
from coldframe.progress import Bar
from coldframe.tasks.corpus import Question
from coldframe.tasks.text_metrics import TEXT_METRICS

MODES: tuple[Mode, ...] = ("closed-book", "passages", "parameters", "both")
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
        broken: Share of the right answers that the adapters of other passages make wrong; see :func:`broken`.
    """

    ways: tuple[Way, ...]
    recall: float | None
    n: int
    cosine: float | None
    broken: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        lost = None if self.broken is None else self.broken.to_dict()
        known = {"n": self.n, "retrieval_recall": self.recall, "adapter_cosine": self.cosine, "swapping_breaks": lost}
        return {**known, "ways": [way.to_dict() for way in self.ways]}


def ways(encoded: Encoded, base: AskConfig, controls: bool = True) -> list[AskConfig]:
    """The settings to measure: four modes, and the controls that the method has.

    Args:
        encoded: The corpus.
        base: Everything else.
        controls: Also those of :func:`controls_of`.
    """
    found = [base.replace(mode=mode) for mode in MODES]
    return found + controls_of(encoded.described.method, base) if controls else found


def controls_of(method: str, base: AskConfig) -> list[AskConfig]:
    """Adapters of another question, alone and beside the right passages as text; routing that is uniform or random.

    Args:
        method: Whose; only Poly-PRAG has a routing.
        base: Everything else.
    """
    alone = base.replace(mode="parameters")
    found = [alone.replace(swapped=True), base.replace(mode="both", swapped=True)]
    if method == "poly-prag":
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
    answers = dict(zip(settings, found, strict=True))
    lost = None
    for one, way in answers.items():
        alone = one.mode == "parameters"
        if alone and one.swapped and (own := answers.get(one.replace(swapped=False))) is not None:
            lost = broken(own.predictions, way.predictions)
    recall, cosine = _recall(encoded, questions, settings[0]), adapter_cosine(encoded)
    return Evaluation(tuple(found), recall, len(questions), cosine, lost)


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


def broken(own: Predictions, swapped: Predictions) -> Interval | None:
    """Share of the right answers that are wrong with the adapters of other passages, percent with a 95% interval.

    Near 100 the answers come out of the adapters; near 0 they came from elsewhere. An answer is right that contains an
    accepted one.

    Args:
        own: With the adapters of the passages that were retrieved.
        swapped: The same questions with those of others.

    Returns:
        None where nothing was right.
    """
    same_rows([own, swapped])
    right, still = (
        TEXT_METRICS["contains"].statistics(one.generated or (), one.references or ())[:, 0] for one in (own, swapped)
    )
    if not right.any():
        return None
    wrong = right * (1 - still)

    def share(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # a resample without a right answer is left out
            return np.asarray(100 * (weights @ wrong) / (weights @ right))

    return interval([share], len(right))


def _recall(encoded: Encoded, questions: Sequence[Question], config: AskConfig) -> float | None:
    known = [one for one in questions if one.passages]
    if not known:
        return None
    retrieved = encoded.retrieve(known, config)
    hits = [set(one.passages) <= {e.id for e in retrieved.examples(row)} for row, one in enumerate(known)]
    return sum(hits) / len(hits)
