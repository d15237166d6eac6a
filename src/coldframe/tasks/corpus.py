"""Passages, the questions they answer, and what a passage is rewritten into before it becomes weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from coldframe.errors import DataError
from coldframe.tasks.cells import as_text, as_texts
from coldframe.tasks.rows import OnError, Problems, Row, Table, read_table
from coldframe.tasks.task import Example, Template, content_hash

QUESTION = Template("Question: {text}\nAnswer:")
"""How a question is put to a model where no other template is given."""


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text that may hold the answer to a question.

    Attributes:
        text: What it says.
        title: What it is about; may be empty.
        id: Names the content, whatever file and row it stands in.
        row: 1-based row number in the source, for messages; 0 if there is none.
    """

    text: str
    title: str
    id: str
    row: int = 0

    @classmethod
    def of(cls, text: str, title: str = "", row: int = 0) -> Passage:
        """A passage with the id that its content gives it; blanks around text and title are no content.

        >>> Passage.of("It lies on the Seine.", "Paris").id == Passage.of("It lies on the Seine.", "Paris", row=7).id
        True
        """
        text, title = text.strip(), title.strip()
        return cls(text, title, content_hash(title, text), row)

    @property
    def shown(self) -> str:
        """Title and text, as retrievers and prompts see them.

        >>> Passage.of("It lies on the Seine.", "Paris").shown
        'Paris: It lies on the Seine.'
        """
        return f"{self.title}: {self.text}" if self.title else self.text

    def example(self) -> Example:
        """As an entry of an exemplar store: it has a text and no answer of its own."""
        return Example(text=self.shown, target="", id=self.id, key=self.id, row=self.row)


@dataclasses.dataclass(frozen=True, slots=True)
class QA:
    """A question about one passage, with its short answer and, where there is one, a whole sentence.

    Blanks around them are cut off, as they are when a file is read: content and id are then the same before and after.
    """

    question: str
    answer: str
    full_answer: str = ""

    def __post_init__(self) -> None:
        for name in ("question", "answer", "full_answer"):
            object.__setattr__(self, name, getattr(self, name).strip())


@dataclasses.dataclass(frozen=True, slots=True)
class Augmentation:
    """What one passage was rewritten into: the text in other words, and questions with answers.

    Attributes:
        rewrite: The passage in other words; may be empty.
        qa: The questions, at least one.
    """

    rewrite: str
    qa: tuple[QA, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rewrite", self.rewrite.strip())

    @property
    def hash(self) -> str:
        """Names the content."""
        return content_hash(
            self.rewrite, *(part for qa in self.qa for part in (qa.question, qa.answer, qa.full_answer))
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question to be answered, and which passages hold the answer.

    Attributes:
        text: The question.
        answers: Accepted answers; the first is the one that is shown.
        id: A stable name.
        passages: Ids of the passages it takes to answer it; empty where that is not known.
        hops: How many facts have to be put together.
        row: 1-based row number in the source; 0 if there is none.
    """

    text: str
    answers: tuple[str, ...]
    id: str
    passages: tuple[str, ...] = ()
    hops: int = 1
    row: int = 0

    @classmethod
    def of(
        cls, text: str, answers: Sequence[str], passages: Sequence[str] = (), hops: int = 1, row: int = 0
    ) -> Question:
        """A question with the id that its content gives it."""
        return cls(text, tuple(answers), content_hash(text, *answers), tuple(passages), hops, row)

    def example(self) -> Example:
        """As a row that metrics and retrievers take."""
        return Example(self.text, self.answers[0], self.id, content_hash(self.text), self.row, self.answers[1:])


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Passages in the order of their source, each once.

    Attributes:
        name: Of the source.
        passages: At least one.
        given: Augmentations that came with the corpus, by passage id.
        notes: What was left out, in sentences.
        source: Where the bytes came from.
    """

    name: str
    passages: tuple[Passage, ...]
    given: Mapping[str, Augmentation] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.passages)

    @cached_property
    def hash(self) -> str:
        """Names the content: which passages, whatever their order."""
        return content_hash(*sorted(passage.id for passage in self.passages))

    @cached_property
    def by_id(self) -> dict[str, Passage]:
        """Passages by id."""
        return {passage.id: passage for passage in self.passages}


def read_corpus(path: str | Path, *, text: str = "text", title: str = "title", on_error: OnError = "raise") -> Corpus:
    r"""Passages from CSV, TSV, JSONL or Parquet.

    In JSONL a passage may bring its own augmentation: ``rewrite``, a text, and ``qa``, a list of mappings with
    ``question``, ``answer`` and, if you like, ``full_answer``.

    Args:
        path: The file.
        text: Its text column.
        title: Its title column; it need not be there.
        on_error: Stop at the first row that cannot be used, or skip such rows and count them. The second of two equal
            passages is always left out and counted: it is no mistake, and would be trained twice.

    Raises:
        DataError: The file cannot be read, has no such column, or a row cannot be used; names the row.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.csv"
        ...     _ = path.write_text("title,text\nParis,It lies on the Seine.\nParis,It lies on the Seine.\n")
        ...     corpus = read_corpus(path)
        >>> len(corpus), corpus.notes
        (1, ('Left out 1 passage(s) that were there before; the first in row 3 (the same as row 2).',))
    """
    problems = Problems(on_error)
    table = read_table(path, problems)
    table.require(text)
    found: dict[str, Passage] = {}
    given: dict[str, Augmentation] = {}
    repeated: list[tuple[int, int]] = []
    for row in table.rows:
        try:
            passage = _passage(row, text, title)
            augmentation = _augmentation(row)
        except DataError as error:
            problems.add(_in_row(table, row, error))
            continue
        if passage.id in found:
            repeated.append((row.number, found[passage.id].row))
            continue
        found[passage.id] = passage
        if augmentation is not None:
            given[passage.id] = augmentation
    if not found:
        raise DataError(f"{table.name} has no usable passage", fix="Check the text column.")
    notes = problems.notes()
    if repeated:
        again, first = repeated[0]
        notes.append(
            f"Left out {len(repeated)} passage(s) that were there before; the first in row {again} "
            f"(the same as row {first})."
        )
    return Corpus(table.name, tuple(found.values()), given, tuple(notes), table.source)


def read_questions(
    path: str | Path, corpus: Corpus | None = None, *, on_error: OnError = "raise"
) -> tuple[tuple[Question, ...], tuple[str, ...]]:
    """Questions from CSV, TSV, JSONL or Parquet, and notes on what was skipped.

    Columns: ``question``; ``answer`` or ``answers`` (in JSONL a list of accepted ones); if they are there,
    ``passages`` (ids or titles of the passages that hold the answer, one or a list; a title that several passages have
    names none) and ``hops``.

    Args:
        path: The file.
        corpus: Where ``passages`` are looked up; without it they are not read.
        on_error: Stop at the first row that cannot be used, or skip such rows and count them.

    Raises:
        DataError: A row cannot be used; names the row.
    """
    problems = Problems(on_error)
    table = read_table(path, problems)
    table.require("question")
    column = "answers" if "answers" in table.columns else table.require("answer")
    names: dict[str, list[str]] | None = None
    if corpus is not None:
        names = {passage.id: [passage.id] for passage in corpus.passages}
        for passage in corpus.passages:
            names.setdefault(passage.title, []).append(passage.id)
    found = []
    for row in table.rows:
        try:
            found.append(_question(row, column, names))
        except DataError as error:
            problems.add(_in_row(table, row, error))
    if not found:
        raise DataError(f"{table.name} has no usable question")
    return tuple(found), tuple(problems.notes())


def write_corpus(path: Path, corpus: Corpus) -> None:
    """Passages, with the augmentations that came along, as JSON lines that :func:`read_corpus` reads."""
    with open(path, "w", encoding="utf-8") as out:
        for passage in corpus.passages:
            record: dict[str, Any] = {"id": passage.id, "title": passage.title, "text": passage.text}
            if (augmentation := corpus.given.get(passage.id)) is not None:
                record |= {"rewrite": augmentation.rewrite, "qa": [dataclasses.asdict(qa) for qa in augmentation.qa]}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Questions as JSON lines that :func:`read_questions` reads."""
    with open(path, "w", encoding="utf-8") as out:
        for one in questions:
            record = {"question": one.text, "answers": one.answers, "passages": one.passages, "hops": one.hops}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def source_of(name: str, passages: Sequence[Passage]) -> dict[str, str]:
    """The source of a corpus that was made and not read."""
    digest = hashlib.sha256("\n".join(passage.id for passage in passages).encode()).hexdigest()
    return {"made by": "coldframe", "name": name, "sha256": digest}


def _passage(row: Row, text: str, title: str) -> Passage:
    content = as_text(row.values.get(text))
    if not content:
        raise DataError(f"the passage is empty (column {text!r})")
    return Passage.of(content, as_text(row.values.get(title)), row.number)


def _augmentation(row: Row) -> Augmentation | None:
    """The augmentation that a row of JSONL brings, if it does."""
    listed = row.values.get("qa")
    if not isinstance(listed, list):
        return None
    found = []
    for one in listed:
        cells = (
            {key: as_text(one.get(key)) for key in ("question", "answer", "full_answer")} if _is_mapping(one) else {}
        )
        if not cells.get("question") or not cells.get("answer"):
            raise DataError("an item of 'qa' has no question or no answer", got=repr(one)[:80])
        found.append(QA(**cells))
    if not found:
        raise DataError("'qa' is an empty list", expected="questions with answers, or no such field")
    return Augmentation(as_text(row.values.get("rewrite")), tuple(found))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _question(row: Row, column: str, names: Mapping[str, Sequence[str]] | None) -> Question:
    text, answers = as_text(row.values.get("question")), as_texts(row.values.get(column))
    if not text:
        raise DataError("the question is empty")
    if not answers[0]:
        raise DataError(f"the answer is empty (column {column!r})")
    passages: list[str] = []
    for name in as_texts(row.values.get("passages")) if names is not None and row.values.get("passages") else ():
        ids = (names or {}).get(name, ())
        if len(ids) != 1:
            problem = f"{len(ids)} passages have the title {name!r}" if ids else f"the corpus has no passage {name!r}"
            raise DataError(problem, fix="Name passages by their id, or by a title that no other has.")
        passages += ids
    hops = as_text(row.values.get("hops")) or "1"
    if not hops.isdecimal() or int(hops) < 1:
        raise DataError("hops is not a number of facts", got=hops, expected="1, 2, ...")
    return Question.of(text, answers, passages, int(hops), row.number)


def _in_row(table: Table, row: Row, error: DataError) -> DataError:
    where = f"{table.name}, row {row.number}: {error.problem}"
    return DataError(where, got=error.got, expected=error.expected, fix=error.fix)
