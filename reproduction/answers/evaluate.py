"""Systems on sets of questions: what each answered, kept row by row, and the table that comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coldframe.errors import ConfigError
from coldframe.tasks.task import content_hash
from coldframe.tasks.text_metrics import normalise
from reproduction.answers.result_cache import ResultCache
from reproduction.answers.scores import (
    Floats,
    by_group,
    difference,
    level,
    over_sets,
    row_scores,
)
from reproduction.answers.systems import System
from reproduction.question_sets import QAPrompt
from reproduction.questions import Question
from reproduction.reweighted.scores import METRICS, PERCENT, Cell, Overall

Report = Callable[[str, int, int], None]  # what is measured, rows done, rows in all


@dataclasses.dataclass(frozen=True)
class QASet:
    """A set of questions as they are put to the systems.

    Args:
        name: In tables.
        questions: The rows.
        prompts: By question id, with its tokens.
        cut: Questions that had passages shortened.
        wrong: By question id, answers to other questions that are none to this one, for the choice among them.
    """

    name: str
    questions: tuple[Question, ...]
    prompts: Mapping[str, tuple[str, int]]
    cut: int
    wrong: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls,
        name: str,
        questions: Iterable[Question],
        prompt: QAPrompt,
        wrong: int = 0,
        others: Iterable[Question] | None = None,
    ) -> QASet:
        """Questions with their prompts.

        Args:
            name: In tables.
            questions: The rows.
            prompt: How they are put.
            wrong: Wrong answers beside each right one, if the other questions have so many.
            others: Questions whose answers are the wrong ones; the rows themselves, if None. Of all from which the rows
                were drawn: then a question keeps its wrong answers when more are drawn.

        Raises:
            DataError: If one is too long.
        """
        rows = tuple(questions)
        built = {question.id: prompt(*question.as_row()) for question in rows}
        prompts = {name: (text.text, text.tokens) for name, text in built.items()}
        return cls(
            name,
            rows,
            prompts,
            sum(text.cut > 0 for text in built.values()),
            _wrong(rows, wrong, rows if others is None else others),
        )

    def by_key(self) -> dict[str, Question]:
        """The questions by a key under which results are kept: it changes with all that is put to a system."""
        questions = {}
        for question in self.questions:
            (prompt,), (targets,) = self.put([question])
            questions[f"{question.id}/{content_hash(prompt, *targets)[:10]}"] = question
        return questions

    def put(self, questions: Iterable[Question]) -> tuple[list[str], list[tuple[str, ...]]]:
        """Prompts of some of the questions, and for each the right answer with the wrong ones after it."""
        rows = list(questions)
        return [self.prompts[question.id][0] for question in rows], [
            (question.target, *self.wrong[question.id]) for question in rows
        ]


#: By set, system, seed and question: the scores of :func:`~.scores.row_scores`.
Scores = dict[str, dict[str, dict[int, dict[str, dict[str, float]]]]]


def ask(
    system: System,
    question_set: QASet,
    out: Path,
    *,
    max_new_tokens: int,
    batch_tokens: int,
    report: Report | None = None,
) -> dict[str, dict[str, Any]]:
    """Every answer of a system on a set, by question id; what was measured before is found in ``out``.

    A row is measured again when its prompt, the answer whose loss is taken, the system or ``max_new_tokens`` changes.

    Args:
        system: What answers.
        question_set: The questions.
        out: Folder of the files that keep the answers.
        max_new_tokens: Of an answer; 0 measures losses alone.
        batch_tokens: Tokens at once, pads included.
        report: Told of the progress.
    """
    questions = question_set.by_key()
    settings = {"set": question_set.name, "system": system.fingerprint, "max_new_tokens": max_new_tokens}
    cache = ResultCache(out, f"{question_set.name}-{system.name}-{system.seed}", settings)

    def measure(ids: list[str]) -> list[dict[str, Any]]:
        answers = system.answer(*question_set.put(questions[key] for key in ids), max_new_tokens)
        return [{"id": key, **dataclasses.asdict(answer)} for key, answer in zip(ids, answers, strict=True)]

    def tell(done: int, total: int) -> None:
        if report is not None:
            report(f"{question_set.name}: {system.name} {system.seed}", done, total)

    sizes = {key: question_set.prompts[question.id][1] + max_new_tokens for key, question in questions.items()}
    rows = cache.fill(sizes, measure, batch_tokens // system.copies, tell)
    return {questions[key].id: row for key, row in rows.items()}


def scored(question_set: QASet, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The scores of a system's answers, by question id."""
    return {question.id: row_scores(question, rows[question.id]) for question in question_set.questions}


def cells(
    question_set: QASet, scores: Mapping[str, Mapping[int, Mapping[str, Mapping[str, float]]]], base: str
) -> list[Cell]:
    """The table of one set: every system and metric, over all rows and by place of the gold passage.

    Args:
        question_set: The questions.
        scores: By system, seed and question id: scores.
        base: The system that the others are compared with.
    """
    places = sorted({question.gold for question in question_set.questions if question.gold is not None})
    several = len({question.group for question in question_set.questions}) < len(question_set.questions)
    parts: list[tuple[int | None, Sequence[Question]]] = [(None, question_set.questions)]
    if several:  # the same questions at every place: else places differ in their questions
        parts += [(place, [q for q in question_set.questions if q.gold == place]) for place in places]
    table = []
    for place, questions in parts:
        for metric in METRICS:
            values = values_of(questions, scores, metric)
            for system, seeds in values.items():
                gap = None
                if system != base and base in values:
                    gap = difference(seeds, values[base], percent=metric in PERCENT)
                table.append(Cell(question_set.name, system, metric, level(seeds), gap, place))
    return table


def values_of(
    questions: Sequence[Question], scores: Mapping[str, Mapping[int, Mapping[str, Mapping[str, float]]]], metric: str
) -> dict[str, list[Floats]]:
    """By system one array for each seed; a system of which the metric cannot be had is not there."""
    table = {}
    for system, by_seed in scores.items():
        rows = [by_group(questions, by_question, metric) for by_question in by_seed.values()]
        seeds = [row for row in rows if row is not None]
        if seeds and len(seeds) == len(rows):
            table[system] = seeds
    return table


def overall(sets: Sequence[QASet], scores: Scores, pairs: Iterable[tuple[str, str]]) -> list[Overall]:
    """Differences of pairs of systems, averaged over the sets; a pair that was not on every set is left out.

    Raises:
        ConfigError: If there is no set.
    """
    if not sets:
        raise ConfigError("There is no set of questions")
    table = []
    for metric in METRICS:
        values = {qa.name: values_of(qa.questions, scores[qa.name], metric) for qa in sets}
        for system, other in pairs:
            if all(system in row and other in row for row in values.values()):
                gaps = [_gaps(row[system], row[other]) for row in values.values()]
                table.append(Overall(system, other, metric, over_sets(gaps)))
    return table


def _wrong(questions: Sequence[Question], count: int, others: Iterable[Question]) -> dict[str, tuple[str, ...]]:
    """For each question so many answers to others, drawn by its group: the same wherever its gold passage is.

    As many as the question has that has the fewest, so that all are asked alike.
    """
    if not count:
        return {question.id: () for question in questions}
    pool = {normalise(question.target): question.target for question in others}
    right = {question.id: {normalise(answer) for answer in question.answers} for question in questions}
    count = min([count, *(len(set(pool) - answers) for answers in right.values())])

    def drawn(question: Question) -> tuple[str, ...]:
        wrong = sorted(set(pool) - right[question.id], key=lambda answer: content_hash(question.group, answer))
        return tuple(pool[answer] for answer in wrong[:count])

    return {question.id: drawn(question) for question in questions}


def _gaps(system: Sequence[Floats], other: Sequence[Floats]) -> list[Floats]:
    if len(system) == len(other):
        return [a - b for a, b in zip(system, other, strict=True)]
    mean = np.mean(other, axis=0)
    return [values - mean for values in system]
