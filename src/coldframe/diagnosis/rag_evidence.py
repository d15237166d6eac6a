"""The result of a diagnosed log as plain data, and the sentence that it begins with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from coldframe.config import Config
from coldframe.diagnosis.effects import MeanEffect, QuestionEffect
from coldframe.diagnosis.evidence import Diagnosis, Estimate, Outcome
from coldframe.diagnosis.retrieval_quality import RetrievalQuality
from coldframe.diagnosis.verdict import MIN_QUERIES
from coldframe.reports.numbers import percent

#: What an answer is measured under, in the words of the report.
Situation = Literal["with its passages", "without passages", "with another question's passages"]
SITUATIONS: tuple[Situation, ...] = ("with its passages", "without passages", "with another question's passages")


@dataclasses.dataclass(frozen=True)
class Rate(Config):
    """A share of the answers, or a probability, in one situation.

    Args:
        situation: Which passages the model had.
        value: Between 0 and 1, with its interval over questions.
    """

    section = "rate"

    situation: str
    value: Estimate


@dataclasses.dataclass(frozen=True)
class RagDiagnosis(Config):
    """The diagnosis of a log.

    Args:
        log: Name of the file.
        headline: The first sentence of the report.
        warnings: What comes before it: a retriever that returns the same for everyone, nothing, or the answer.
        is_gold: Whether answers are held against right ones; otherwise against what the pipeline wrote.
        grading: How a written answer is scored.
        right: Answers right, in each situation.
        probability: Of a token of the right answer (geometric mean), in each situation; empty where it is not known.
        quality: The retriever alone.
        questions: Each with its passages.
        ranks: Mean effect of the first, second, ... passage.
        passages: Mean effect of every passage, the most retrieved first.
        diagnosis: The evidence behind the verdict.
        notes: What was taken for what, and what else a reader should know.
    """

    section = "rag diagnosis"

    log: str
    headline: str
    warnings: tuple[str, ...]
    is_gold: bool
    grading: str
    right: tuple[Rate, ...]
    probability: tuple[Rate, ...]
    quality: RetrievalQuality
    questions: tuple[QuestionEffect, ...]
    ranks: tuple[MeanEffect, ...]
    passages: tuple[MeanEffect, ...]
    diagnosis: Diagnosis
    notes: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """The verdict."""
        return self.diagnosis.verdict.outcome


def headline(
    diagnosis: Diagnosis, right: Sequence[Rate], is_gold: bool, *, grading: str = "contains", independent: int = 0
) -> str:
    """The verdict in the reader's words, and what the answers were in each situation.

    ``grading`` names the score: token F1 is no share of the answers. ``independent`` counts questions that are.
    """
    gain, n = diagnosis.store_ablation.gain, independent or diagnosis.n
    if n < MIN_QUERIES:
        verdict = f"Too few questions for a verdict: {n}, and it takes {MIN_QUERIES} or more"
    elif gain.high < 0:
        verdict = "Retrieval hurts"
    elif not gain.low > 0:
        verdict = "No help from retrieval can be shown"
    else:
        verdict = _VERDICTS[diagnosis.verdict.outcome]
    own, none, others = (percent(rate.value.value) for rate in right)
    if grading == "token_f1":
        against = "right" if is_gold else "logged"
        rates = f"{own} of the words agree with the {against} answers (token F1) with the retrieved passages"
        return f"{verdict}: {rates}, {none} without, {others} with another question's."
    what = "answers are right" if is_gold else "answers agree with the logged ones"
    return (
        f"{verdict}: {own} of the {what} with the retrieved passages, {none} without, {others} with another question's."
    )


_VERDICTS: Mapping[Outcome, str] = {
    "retrieval-driven": "Retrieval does the work",
    "query-driven": "The passages could be anything",
    "prompt-tuning-like": "Any passages would do as well",
    "mixed": "Part of the help comes from what is retrieved, part would come from any passages",
    "cannot-tell": "Passages help, but these questions cannot tell whether it matters which",
}
