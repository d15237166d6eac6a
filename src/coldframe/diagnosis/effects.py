"""What retrieval does for each question, and which passage does it."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coldframe.config import Config
from coldframe.diagnosis.evidence import Estimate
from coldframe.diagnosis.passages import PassageSubject
from coldframe.diagnosis.queries import Case
from coldframe.diagnosis.shares import UNDEFINED, Resampling, independent
from coldframe.diagnosis.store_ablation import DRAWS
from coldframe.inference.intervals import wilson

Effect = Literal["helped", "hurt", "did nothing"]

#: A change of the loss that counts: in nats a token (a tenth more or less probable), and in points of a score.
NOTICEABLE_NATS, NOTICEABLE_SCORE = 0.1, 0.05
#: A passage must have been retrieved for as many questions before its mean effect gets an interval.
ENOUGH = 5


@dataclasses.dataclass(frozen=True)
class PassageEffect(Config):
    """What one passage does for one question.

    Args:
        rank: As it was retrieved, from 1.
        text: The passage.
        change: Loss without it minus loss with all: above 0 it helps.
        effect: The same in a word.
    """

    section = "passage effect"

    rank: int
    text: str
    change: float
    effect: Effect


@dataclasses.dataclass(frozen=True)
class QuestionEffect(Config):
    """What retrieval does for one question.

    Args:
        id: The row's name.
        question: As it was asked.
        answer: The right answer, or the one that the pipeline wrote.
        loss: With its passages.
        without: Loss without any.
        others: Mean loss with the passages of another question.
        change: ``without - loss``: above 0 retrieval helps.
        effect: The same in a word.
        passages: Each of them, in the order of retrieval.
    """

    section = "question effect"

    id: str
    question: str
    answer: str
    loss: float
    without: float
    others: float
    change: float
    effect: Effect
    passages: tuple[PassageEffect, ...]

    @property
    def decisive(self) -> PassageEffect | None:
        """The passage that does most of what retrieval does here: helps where it helps, hurts where it hurts."""
        side = -1 if self.effect == "hurt" else 1
        most = max(self.passages, key=lambda passage: side * passage.change, default=None)
        return most if most is not None and most.effect == self.effect != "did nothing" else None


@dataclasses.dataclass(frozen=True)
class MeanEffect(Config):
    """The mean effect of a rank, or of a passage, over the questions that retrieved it.

    Args:
        name: The rank, or the passage.
        questions: How many retrieved it.
        change: Loss without it minus loss with all, mean with its interval; the ends are NaN below five questions.
    """

    section = "mean effect"

    name: str
    questions: int
    change: Estimate


def question_effects(subject: PassageSubject, *, draws: int = DRAWS) -> tuple[QuestionEffect, ...]:
    """Every question with and without its passages, and with all but one of them.

    With the loss l(P) of the right answer given passages P, the effect of retrieval is ``l({}) - l(P)`` and that of
    a passage p ``l(P without p) - l(P)``. A change below 0.1 nats a token, 0.05 of a score, or the difference between
    two measurements of the same question, counts as nothing. Two passages that say the same do nothing each: without
    one of them the other is still there.

    Args:
        subject: The pipeline.
        draws: Of the passages of other questions.

    Cost: one loss for every retrieved passage, beside the losses of the store ablation.
    """
    least = max(NOTICEABLE_NATS if subject.unit == "nats" else NOTICEABLE_SCORE, subject.noise)
    full, empty = subject.losses("full"), subject.losses("empty")
    others = np.mean([subject.losses("swapped", draw) for draw in range(draws)], axis=0)
    cases, rows = [], []
    for row, (query, passages) in enumerate(zip(subject.queries, subject.retrieved, strict=True)):
        for left_out in range(len(passages)):
            cases.append(Case(query.text, passages[:left_out] + passages[left_out + 1 :], query.target))
            rows.append(row)
    changes: dict[int, list[float]] = defaultdict(list)
    for row, loss in zip(rows, subject.losses_of(cases, rows, "without one passage").tolist(), strict=True):
        changes[row].append(loss - full[row])
    return tuple(
        QuestionEffect(
            id=query.id or str(row + 1),
            question=query.text,
            answer=query.target,
            loss=float(full[row]),
            without=float(empty[row]),
            others=float(others[row]),
            change=float(empty[row] - full[row]),
            effect=_word(float(empty[row] - full[row]), least),
            passages=tuple(
                PassageEffect(rank, text, change, _word(change, least))
                for rank, (text, change) in enumerate(zip(passages, changes[row], strict=True), 1)
            ),
        )
        for row, (query, passages) in enumerate(zip(subject.queries, subject.retrieved, strict=True))
    )


def by_rank(
    effects: Sequence[QuestionEffect], groups: NDArray[np.int64] | None = None, **resampling: int
) -> tuple[MeanEffect, ...]:
    """The mean effect of the first, second, ... passage; ``resampling`` goes to :class:`Resampling`."""
    ranks: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for row, question in enumerate(effects):
        for passage in question.passages:
            ranks[passage.rank].append((row, passage.change))
    return tuple(_mean(str(rank), changes, groups, resampling) for rank, changes in sorted(ranks.items()))


def by_passage(
    effects: Sequence[QuestionEffect], groups: NDArray[np.int64] | None = None, **resampling: int
) -> tuple[MeanEffect, ...]:
    """The mean effect of every passage, the most retrieved first."""
    passages: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row, question in enumerate(effects):
        for text, change in {passage.text: passage.change for passage in question.passages}.items():
            passages[text].append((row, change))
    ordered = sorted(passages.items(), key=lambda item: -len(item[1]))
    return tuple(_mean(text, changes, groups, resampling) for text, changes in ordered)


def _mean(
    name: str, changes: Iterable[tuple[int, float]], groups: NDArray[np.int64] | None, resampling: dict[str, int]
) -> MeanEffect:
    rows, values = zip(*changes, strict=True)
    own = None if groups is None else groups[list(rows)]
    return MeanEffect(name, len(rows), mean_estimates([values], own, **resampling)[0])


def mean_estimates(rows: ArrayLike, groups: NDArray[np.int64] | None = None, **resampling: int) -> list[Estimate]:
    """Means over the same questions with their intervals, by one resampling; the ends are NaN below five questions.

    >>> mean_estimates([[1.0, 2.0]])
    [Estimate(value=1.5, low=nan, high=nan, p_value=nan)]
    """
    values = np.asarray(rows, np.float64)
    if independent(values.shape[1], groups) < ENOUGH:
        return [Estimate(float(mean), float("nan"), float("nan")) for mean in values.mean(axis=1)]
    return [mean.estimate() for mean in Resampling(values.shape[1], groups, **resampling).means(values[:, None])]


def share_estimate(values: Sequence[float], groups: NDArray[np.int64] | None = None, **resampling: int) -> Estimate:
    """A mean of values between 0 and 1 with its interval; not defined where there are none.

    If all are equal, or all are 0 or 1 and the questions independent, it is a Wilson interval over the questions that
    are independent: where all are equal, a bootstrap would claim to be certain.

    >>> round(share_estimate([1.0] * 10).low, 2)
    0.72
    """
    units = independent(len(values), groups)
    equal = len(set(values)) == 1
    if units >= ENOUGH and (equal or (units == len(values) and set(values) <= {0.0, 1.0})):
        share = float(np.mean(values))
        return Estimate(share, *wilson(share * units, units))
    return mean_estimates([values], groups, **resampling)[0] if len(values) else UNDEFINED


def _word(change: float, least: float) -> Effect:
    if abs(change) <= least:
        return "did nothing"
    return "helped" if change > 0 else "hurt"
