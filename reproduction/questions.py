"""A question with its passages inside, and files of such questions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from coldframe.errors import DataError
from coldframe.storage.files import atomic_path
from coldframe.tasks import task as tasks
from coldframe.tasks.text_metrics import normalise
from reproduction.question_sets.read import read_rows


class Passage(NamedTuple):
    """A piece of text, with the title of what it comes from (may be empty)."""

    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked, what counts as right, and what may be read for it.

    Args:
        id: Unique in its set.
        question: As it is asked.
        answers: What counts as right (aliases), at least one. One of which nothing is left when it is normalised, such
            as ``*``, is dropped: everything would contain it.
        passages: In the order in which they are shown.
        gold: Position of the passage with the answer, from 0; None where that is not known.
        group: Equal for questions that are not independent, such as one question with its gold passage at several
            places; the id if empty.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    passages: tuple[Passage, ...]
    gold: int | None = None
    group: str = ""

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise DataError(f"The question {self.id} is empty", got=repr(self.question))
        answers = tuple(answer for answer in self.answers if normalise(answer))
        if not answers:
            raise DataError(f"The question {self.id} has no answer", got=list(self.answers))
        object.__setattr__(self, "answers", answers)
        if not self.passages:
            raise DataError(f"The question {self.id} has no passages", expected="at least one")
        if self.gold is not None and not 0 <= self.gold < len(self.passages):
            expected = f"0 to {len(self.passages) - 1}, or nothing"
            raise DataError(f"The gold passage of {self.id} does not exist", got=self.gold, expected=expected)
        if not self.group:
            object.__setattr__(self, "group", self.id)

    @property
    def target(self) -> str:
        """The answer whose probability is measured.

        It is the first that a passage (the gold one, if known) has, else the first.
        """
        where = self.passages if self.gold is None else (self.passages[self.gold],)
        shown = (answer for answer in self.answers if any(answered_by(passage, [answer]) for passage in where))
        return next(shown, self.answers[0])

    def as_row(self) -> tuple[tasks.Example, list[tasks.Passage]]:
        """As a row of a task, and its passages in their order."""
        passages = [tasks.Passage.of(passage.text, passage.title) for passage in self.passages]
        ids, key = tuple(passage.id for passage in passages), tasks.text_key(self.question)
        others = tuple(answer for answer in self.answers if answer != self.target)
        gold = () if self.gold is None else (ids[self.gold],)
        row = tasks.Example(self.question, self.target, self.id, key, 0, others, gold, ids, group=self.group)
        return row, passages

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.id,
            "question": self.question,
            "answers": list(self.answers),
            "passages": [passage._asdict() for passage in self.passages],
            "gold": self.gold,
            "group": self.group,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Question:
        """The inverse of :meth:`to_dict`.

        Raises:
            DataError: If something is missing or of the wrong kind.
        """
        try:
            passages = tuple(Passage(str(passage["title"]), str(passage["text"])) for passage in values["passages"])
            answers, gold = values["answers"], values.get("gold")
            if isinstance(answers, str) or not (gold is None or type(gold) is int):
                raise TypeError("answers is a list, gold a number or null")
            texts = tuple(map(str, answers))
            group = str(values.get("group") or "")
            return cls(str(values["id"]), str(values["question"]), texts, passages, gold, group)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"A line is no question: {type(error).__name__} {error}",
                got=str(values)[:80],
                expected="id, question, answers (a list), passages (each with title and text), gold and group if known",
            ) from error


def answered_by(passage: Passage, answers: Iterable[str]) -> bool:
    """Whether a passage holds one of the answers: both normalised, and at word boundaries.

    >>> answered_by(Passage("Rome", "Rome is the capital of Italy."), ["The capital"])
    True
    """
    text = f" {normalise(passage.title)} | {normalise(passage.text)} "
    return any(f" {normalise(answer)} " in text for answer in answers)


def questions_of(task: tasks.Task) -> list[Question]:
    """The test rows of a task whose rows bring their passages."""
    stored = {entry.id: entry for entry in task.store or () if isinstance(entry, tasks.Passage)}

    def question(row: tasks.Example) -> Question:
        contexts = row.contexts or ()
        passages = tuple(Passage(stored[name].title, stored[name].body) for name in contexts)
        gold = contexts.index(row.gold[0]) if row.gold else None
        return Question(row.id, row.text, (row.target, *row.references), passages, gold, row.group)

    return [question(row) for row in task.test]


def read_questions(path: str | Path) -> list[Question]:
    """Questions as :func:`write_questions` writes them: one JSON object a line; ``.gz`` is unpacked.

    Raises:
        DataError: If the file is missing, empty or damaged, or two questions have one id.
    """
    questions: dict[str, Question] = {}
    for row in read_rows(path):
        question = Question.from_dict(row)
        if question.id in questions:
            raise DataError(f"Two questions in {path} have the id {question.id!r}")
        questions[question.id] = question
    return list(questions.values())


def write_questions(questions: Iterable[Question], path: str | Path) -> None:
    """Write questions as JSON lines, whole or not at all."""
    lines = [json.dumps(question.to_dict(), ensure_ascii=False) + "\n" for question in questions]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
