"""Two pipelines on the same questions: which one answers better, and on which questions."""

from __future__ import annotations

import dataclasses
from collections import Counter

from coldframe.config import Config
from coldframe.diagnosis.effects import mean_estimates
from coldframe.diagnosis.evidence import Estimate
from coldframe.diagnosis.shares import Resampling, independent
from coldframe.diagnosis.subject import Condition, Subject
from coldframe.diagnosis.verdict import MIN_QUERIES
from coldframe.errors import DataError
from coldframe.inference.intervals import RESAMPLES
from coldframe.reports.numbers import plural, span
from coldframe.tasks.rag_log import LogRow, RagLog
from coldframe.tasks.task import text_key

CONDITIONS: tuple[Condition, ...] = ("full", "empty", "swapped")


@dataclasses.dataclass(frozen=True)
class PairedLoss(Config):
    """Both pipelines under one condition.

    Args:
        condition: A key of ``coldframe.diagnosis.subject.CONDITIONS``.
        first: Mean loss of the first.
        second: Mean loss of the second.
        difference: First minus second, paired: above 0 the second is better.
    """

    section = "paired loss"

    condition: str
    first: Estimate
    second: Estimate
    difference: Estimate


@dataclasses.dataclass(frozen=True)
class PairedQuestion(Config):
    """Both losses of one question, with what was retrieved for it."""

    section = "paired question"

    id: str
    question: str
    first: float
    second: float


@dataclasses.dataclass(frozen=True)
class Pair(Config):
    """Two pipelines compared.

    Args:
        names: Of both.
        n: Questions.
        unit: Of a loss.
        headline: The first sentence of the report.
        losses: With what each retrieves, without anything, and with what it retrieves for another question.
        questions: All of them, in their order.
    """

    section = "pair"

    names: tuple[str, str]
    n: int
    unit: str
    headline: str
    losses: tuple[PairedLoss, ...]
    questions: tuple[PairedQuestion, ...]


def compare_subjects(
    first: Subject,
    second: Subject,
    *,
    names: tuple[str, ...] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Pair:
    """Compare two pipelines on the same questions, paired.

    Args:
        first: A pipeline.
        second: Another, on the same questions in the same order.
        names: As reports show them; their own if there are none.
        resamples: Of the bootstrap and the permutation test.
        seed: Of both.

    Raises:
        DataError: They have different questions, or different units.

    Cost: up to three losses for every question and pipeline.
    """
    if first.unit != second.unit:
        raise DataError("Two pipelines with different units cannot be compared", got=[first.unit, second.unit])
    if len(first) != len(second):
        raise DataError(
            "Two pipelines with different numbers of questions cannot be compared", got=[len(first), len(second)]
        )
    shown = names if len(names) == 2 else (first.name, second.name)
    resampling = Resampling(len(first), first.groups, resamples=resamples, seed=seed)
    missing = {*first.missing(), *second.missing()}
    rows = []
    for condition in CONDITIONS:
        if condition in missing:
            continue
        a, b = first.losses(condition), second.losses(condition)
        (p_value,) = resampling.p_values([(a - b)[None]])
        own, other, difference = mean_estimates([a, b, a - b], first.groups, resamples=resamples, seed=seed)
        rows.append(PairedLoss(condition, own, other, dataclasses.replace(difference, p_value=p_value)))
    full = [first.losses("full"), second.losses("full")]
    queries = getattr(first, "queries", None) or getattr(first, "examples", None) or [None] * len(first)
    questions = tuple(
        PairedQuestion(getattr(q, "id", "") or str(i), getattr(q, "text", ""), float(a), float(b))
        for i, (q, a, b) in enumerate(zip(queries, *full, strict=True), 1)
    )
    headline = _headline((shown[0], shown[1]), rows[0], independent(len(first), first.groups), first.unit)
    return Pair((shown[0], shown[1]), len(first), first.unit, headline, tuple(rows), questions)


def _headline(names: tuple[str, str], row: PairedLoss, n: int, unit: str) -> str:
    difference = row.difference
    measured = f"a difference of {span(difference, 3)} {unit} on {plural(n, 'question')}"
    if n < MIN_QUERIES:
        return f"Too few questions to tell {names[0]} from {names[1]}, it takes {MIN_QUERIES}: {measured}."
    if difference.low > 0:
        return f"{names[1]} is better than {names[0]}: {measured}."
    if difference.high < 0:
        return f"{names[0]} is better than {names[1]}: {measured}."
    return f"{names[0]} and {names[1]} cannot be told apart: {measured}."


def shared(first: RagLog, second: RagLog) -> tuple[RagLog, RagLog]:
    """The questions that two logs share, in the order of the first.

    Raises:
        DataError: They share fewer than two.
    """
    if first.is_gold != second.is_gold:
        raise DataError("One log has right answers and the other has none", fix="Compare logs of the same kind.")
    if not first.is_gold:
        raise DataError(
            "Two logs without right answers cannot be compared: what one pipeline wrote would judge both",
            fix="Add right answers to the logs (--gold COLUMN).",
        )
    known = _by_question(second)
    both = [(row, known[key]) for key, row in _by_question(first).items() if key in known]
    if len(both) < 2:
        raise DataError(
            "The logs share too few questions", got=len(both), expected="at least 2", fix="Log the same questions."
        )
    note = f"{len(both)} questions stand in both logs; {len(first.rows)} and {len(second.rows)} in each."
    if any(place for _, place in known):
        note += " Rows of a question that stands more than once are paired in the order of each log."
    # The answers of the first log are what both are held against.
    others = [dataclasses.replace(other, answers=row.answers) for row, other in both]
    return (
        dataclasses.replace(first, rows=tuple(row for row, _ in both), notes=(*first.notes, note)),
        dataclasses.replace(second, rows=tuple(others), notes=(*second.notes, note)),
    )


def _by_question(log: RagLog) -> dict[tuple[str, int], LogRow]:
    """Rows by their question, and by how often it stood in the log before."""
    before: Counter[str] = Counter()
    rows: dict[tuple[str, int], LogRow] = {}
    for row in log.rows:
        key = text_key(row.question)
        rows[key, before[key]] = row
        before[key] += 1
    return rows
