"""A retriever alone: what it returns, beside the passages that hold the answer where they are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coldframe.config import Config
from coldframe.diagnosis.effects import share_estimate
from coldframe.diagnosis.evidence import Estimate
from coldframe.tasks.rag_log import LogRow
from coldframe.tasks.text_metrics import normalise

#: Two passages that share this much of their words (Jaccard) say the same.
SAME_WORDS = 0.8
#: Fewer words of a passage stand in others by accident.
PIECE = 4


@dataclasses.dataclass(frozen=True)
class RetrievalQuality(Config):
    """What a retriever returns.

    Args:
        questions: Their number.
        retrieved: Passages for a question, mean.
        distinct: Different passages, over all questions.
        empty: Questions for which nothing was retrieved.
        same_for_all: Whether all questions got the same passages, where there are two questions or more.
        is_answer: Questions with a passage that is the answer itself, and nothing more.
        answer_within: Share of the questions with an answer in one of their passages, word for word.
        redundant: Share of the passages that repeat an earlier one of the same question.
        gold_questions: Questions whose gold passages are known.
        hit: Share of those with a gold passage among what was retrieved; None where none is known.
        recall: Share of their gold passages that was retrieved; likewise.
        ndcg: Normalised discounted cumulative gain of the gold passages; likewise.
        gold_never: Share of all gold passages that no question retrieved; likewise.
    """

    section = "retrieval quality"

    questions: int
    retrieved: float
    distinct: int
    empty: int
    same_for_all: bool
    is_answer: int
    answer_within: Estimate
    redundant: float
    gold_questions: int = 0
    hit: Estimate | None = None
    recall: Estimate | None = None
    ndcg: Estimate | None = None
    gold_never: float | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know before anything else, in sentences."""
        sentences = []
        if self.same_for_all:
            sentences.append(
                "The retriever returns the same passages for every question: it works as a fixed prompt, and no "
                "diagnosis can find more in it."
            )
        if self.empty:
            sentences.append(f"The retriever returns nothing for {self.empty:,} of {self.questions:,} questions.")
        if self.is_answer:
            sentences.append(
                f"For {self.is_answer:,} of {self.questions:,} questions a retrieved passage is the answer itself: "
                "right answers leaked into the store, or the log holds answers where passages belong."
            )
        return tuple(sentences)


def retrieval_quality(
    rows: Sequence[LogRow], groups: NDArray[np.int64] | None = None, *, seed: int = 0
) -> RetrievalQuality:
    """Measure a log's retrieval; no model is asked.

    A gold passage counts as retrieved if it equals a retrieved one, or one holds the other (chunks), in lower case and
    without punctuation. With r_i = 1 where the i-th passage is gold and g gold passages among k::

        nDCG = sum_i r_i / log2(i + 1)  /  sum_{i <= min(g, k)} 1 / log2(i + 1)

    Paper: Jarvelin & Kekalainen 2002 (nDCG).

    Example:
        >>> rows = [
        ...     LogRow("Where is Ada?", ("Bo is in Oslo.", "Ada is in Rome."), ("Rome",), gold=("Ada is in Rome.",)),
        ...     LogRow("Where is Bo?", ("Bo is in Oslo.", "Ada is in Rome."), ("Oslo",), gold=("Bo is in Oslo.",)),
        ... ]
        >>> quality = retrieval_quality(rows)
        >>> quality.same_for_all, quality.hit.value, round(quality.ndcg.value, 2)
        (True, 1.0, 0.82)
    """
    sets = [[normalise(passage) for passage in row.passages] for row in rows]
    answers = [[normalise(answer) for answer in row.answers] for row in rows]
    known = [(texts, [normalise(passage) for passage in row.gold]) for texts, row in zip(sets, rows, strict=True)]
    known = [(texts, list(filter(None, gold))) for texts, gold in known if any(gold)]
    total = sum(map(len, sets))
    repeated = sum(_repeats(texts) for texts in sets)
    within = [
        float(any(f" {answer} " in f" {text} " for answer in accepted for text in texts))
        for texts, accepted in zip(sets, answers, strict=True)
    ]
    quality = RetrievalQuality(
        questions=len(rows),
        retrieved=total / len(rows),
        distinct=len({text for texts in sets for text in texts}),
        empty=sum(not texts for texts in sets),
        same_for_all=len(rows) > 1 and len({frozenset(texts) for texts in sets}) == 1 and bool(sets[0]),
        is_answer=sum(not set(texts).isdisjoint(accepted) for texts, accepted in zip(sets, answers, strict=True)),
        answer_within=share_estimate(within, groups, seed=seed),
        redundant=repeated / total if total else 0.0,
    )
    if not known:
        return quality
    hits, recalls, gains = [], [], []
    own = None if groups is None else groups[[place for place, row in enumerate(rows) if any(map(normalise, row.gold))]]
    everything = {text for texts in sets for text in texts}
    for texts, gold in known:
        places = [any(_holds(text, passage) for passage in gold) for text in texts]
        hits.append(float(any(places)))
        recalls.append(float(np.mean([any(_holds(text, passage) for text in texts) for passage in gold])))
        ideal = sum(1 / math.log2(place + 2) for place in range(min(len(gold), len(texts))))
        reached = sum(1 / math.log2(place + 2) for place, right in enumerate(places) if right)
        gains.append(min(1.0, reached / ideal) if ideal else 0.0)
    gold_passages = {passage for _, gold in known for passage in gold}
    missed = (passage for passage in gold_passages if passage not in everything)
    never = [passage for passage in missed if not any(_holds(text, passage) for text in everything)]
    return dataclasses.replace(
        quality,
        gold_questions=len(known),
        hit=share_estimate(hits, own, seed=seed),
        recall=share_estimate(recalls, own, seed=seed),
        ndcg=share_estimate(gains, own, seed=seed),
        gold_never=len(never) / len(gold_passages),
    )


def _holds(text: str, passage: str) -> bool:
    """Whether two passages are the same, or one is a piece of the other that is long enough to be no accident."""
    if text == passage:
        return bool(text)
    short, long = sorted((text, passage), key=len)
    return len(short.split()) >= PIECE and f" {short} " in f" {long} "


def _repeats(texts: Sequence[str]) -> int:
    """Passages that repeat an earlier one."""
    words = [frozenset(text.split()) for text in texts]
    return sum(
        any(len(own & other) >= SAME_WORDS * len(own | other) for other in words[:place])
        for place, own in enumerate(words)
    )
