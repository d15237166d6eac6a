"""Rows of a table that are passages: a text, perhaps a title, an id, a rewrite and questions about it."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from coldframe.errors import DataError
from coldframe.storage.files import atomic_path
from coldframe.tasks.cells import as_text, as_texts, text_in
from coldframe.tasks.columns import ID_NAMES
from coldframe.tasks.table import Problems, Row, Table, located
from coldframe.tasks.task import Example, Passage, text_key
from coldframe.tasks.text_metrics import normalise

TEXT_NAMES = ("text", "passage", "body", "content", "contents")
REWRITE, QUESTIONS = "rewrite", "qa"


@dataclasses.dataclass(frozen=True)
class PassageRows:
    """Passages as they were read, each once, and the questions that came with them.

    Attributes:
        passages: In the order of their source.
        questions: Rows to train on; ``gold`` is the passage that each is about.
        names: Ids of the passages by what they may be called: id or title. A title may have several.
        notes: What was left out, in sentences.
    """

    passages: tuple[Passage, ...]
    questions: tuple[Example, ...]
    names: Mapping[str, Sequence[str]]
    notes: tuple[str, ...] = ()


def read_passages(table: Table, problems: Problems, text: str | None = None, title: str = "title") -> PassageRows:
    """Passages of a table.

    A row may bring a ``rewrite``, a text, and ``qa``, a list of mappings with ``question``, ``answer`` (or a list of
    accepted ones) and, if you like, ``full_answer``. An ``id`` column names the passages; else their content does.

    Args:
        table: The rows.
        problems: Gets those that cannot be used. The second of two equal passages is no mistake: it is left out and
            counted, and whoever names it means the first.
        text: The text column; one of ``TEXT_NAMES`` if None.
        title: The title column; it need not be there.

    Raises:
        DataError: There is no such column, or no usable passage.

    Example:
        >>> rows = (Row(2, {"title": "Paris", "text": "It lies on the Seine."}), Row(3, {"text": "It is old."}))
        >>> [passage.text for passage in read_passages(Table("a.csv", ("title", "text"), rows), Problems()).passages]
        ['Paris: It lies on the Seine.', 'It is old.']
    """
    text = table.require(text or next((name for name in TEXT_NAMES if name in table.columns), TEXT_NAMES[0]))
    identity = next((name for name in ID_NAMES if name in table.columns), None)
    passages: dict[str, Passage] = {}
    by_content: dict[str, Passage] = {}
    questions: list[Example] = []
    names: dict[str, list[str]] = {}
    repeats: list[tuple[int, int]] = []
    for row in table.rows:
        try:
            passage = _passage(row, text, title, identity)
            about = _questions(row, passage)
            if (first := by_content.get(passage.key)) is not None:
                repeats.append((row.number, first.row))
                names[passage.id] = [first.id]
                continue
            if (other := passages.get(passage.id)) is not None:
                raise DataError(f"the id {passage.id!r} is that of the passage in row {other.row}")
        except DataError as error:
            problems.add(located(table, row, error))
            continue
        passages[passage.id] = by_content[passage.key] = passage
        questions += about
    if not passages:
        raise DataError(f"{table.name} has no usable passage", fix="Check the text column.")
    names |= names_of(passages.values())
    notes: tuple[str, ...] = ()
    if repeats:
        again, before = repeats[0]
        notes = (
            f"Left out {len(repeats)} passage(s) that were there before; the first in row {again} "
            f"(the same as row {before}).",
        )
    return PassageRows(tuple(passages.values()), tuple(questions), names, notes)


def names_of(passages: Iterable[Passage]) -> dict[str, list[str]]:
    """Ids of passages by what they may be called: id or title; a title may have several.

    >>> names_of([Passage.of("one", "T", id="a"), Passage.of("two", "T", id="b")])
    {'T': ['a', 'b'], 'a': ['a'], 'b': ['b']}
    """
    names: defaultdict[str, list[str]] = defaultdict(list)
    passages = list(passages)
    for passage in passages:
        if passage.title:
            names[passage.title].append(passage.id)
    names.update((passage.id, [passage.id]) for passage in passages)
    return dict(names)


def answered_by(passage: Passage, answers: Iterable[str]) -> bool:
    """Whether a passage holds one of the answers: both normalised, and at word boundaries.

    >>> answered_by(Passage.of("Rome is the capital of Italy.", "Rome"), ["The capital"])
    True
    """
    text = f" {normalise(passage.title)} | {normalise(passage.body)} "
    return any(f" {normalise(answer)} " in text for answer in answers)


def question_about(
    passage: Passage, place: int, question: str, answers: Sequence[str], full_answer: str = ""
) -> Example:
    """A row to train on: a question that a passage answers.

    Args:
        passage: What it is about.
        place: Of the question among those of the passage, from 0.
        question: The question.
        answers: What counts as right; the first is the one that is trained.
        full_answer: The answer as a sentence.
    """
    question, full_answer = question.strip(), full_answer.strip()
    answers = [answer.strip() for answer in answers]
    return Example(
        question,
        answers[0],
        f"{passage.id}-{place:02d}",
        text_key(question),
        passage.row,
        tuple(answers[1:]),
        (passage.id,),
        full_target=full_answer,
    )


def write_passages(path: Path, passages: Sequence[Passage], questions: Sequence[Example] = ()) -> None:
    """Passages, with the questions about them, as JSON lines that :func:`read_passages` reads."""
    about: defaultdict[str, list[Example]] = defaultdict(list)
    for question in questions:
        for passage_id in question.gold:
            about[passage_id].append(question)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        for passage in passages:
            record: dict[str, object] = {"id": passage.id, "title": passage.title, "text": passage.body}
            if passage.rewrite:
                record[REWRITE] = passage.rewrite
            if about[passage.id]:
                record[QUESTIONS] = [question_record(question) for question in about[passage.id]]
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def question_record(question: Example) -> dict[str, object]:
    """A question about a passage, for JSON."""
    answers = [question.target, *question.references]
    record: dict[str, object] = {"question": question.text, "answer": answers if question.references else answers[0]}
    return record | ({"full_answer": question.full_target} if question.full_target else {})


def question_of_record(passage: Passage, place: int, record: object) -> Example:
    """The inverse of :func:`question_record`.

    Raises:
        DataError: It has no question or no answer.
    """
    if isinstance(record, Mapping):
        question, full = as_text(record.get("question")), as_text(record.get("full_answer"))
        answers = as_texts(record.get("answer", record.get("answers")))
        if question and answers[0]:
            return question_about(passage, place, question, answers, full)
    raise DataError(f"an item of {QUESTIONS!r} has no question or no answer", got=repr(record)[:80])


def _passage(row: Row, text: str, title: str, identity: str | None) -> Passage:
    body = text_in(row.values, text)
    if not body:
        raise DataError(f"the passage is empty (column {text!r})")
    heading, own, rewrite = (text_in(row.values, column) for column in (title, identity, REWRITE))
    return Passage.of(body, heading, id=own, row=row.number, rewrite=rewrite)


def _questions(row: Row, passage: Passage) -> list[Example]:
    """The questions that a row of JSONL or Parquet brings, if it does."""
    records = row.values.get(QUESTIONS)
    if not isinstance(records, list):
        return []
    if not records:
        raise DataError(f"{QUESTIONS!r} is an empty list", expected="questions with answers, or no such field")
    return [question_of_record(passage, place, record) for place, record in enumerate(records)]
