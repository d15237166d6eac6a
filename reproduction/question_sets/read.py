"""Published sets of questions with passages as tasks: HotpotQA, 2WikiMultihopQA, PopQA, NQ and TriviaQA."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coldframe.errors import DataError
from coldframe.tasks.contexts import OwnPassages
from coldframe.tasks.passages import answered_by
from coldframe.tasks.questions import QUESTION
from coldframe.tasks.task import Example, Passage, Schema, Task, text_key
from coldframe.tasks.text_metrics import normalise


class Row(NamedTuple):
    """A question as a set has it; ``gold`` is the place of the passage with the answer, if that is known."""

    id: str
    question: str
    answers: Sequence[str]
    passages: Sequence[Passage]
    gold: int | None = None


def hotpot(path: str | Path) -> list[Row]:
    """HotpotQA and 2WikiMultihopQA in the distractor form: ``context`` is a list of (title, sentences).

    Two passages are gold, so ``gold`` is not said. Rows without any context are left out.
    """

    def row(record: Mapping[str, Any]) -> Row:
        passages = [Passage.of(_join(sentences), title) for title, sentences in record["context"]]
        return Row(str(record["_id"]), record["question"], [record["answer"]], passages)

    return _rows(path, [record for record in read_rows(path) if record.get("context")], row)


def joined_hotpot(path: str | Path) -> list[Row]:
    """HotpotQA with the ten paragraphs in one text, a blank line between them, each begun by its title.

    Where a title ends cannot be told for sure, so it stays in the text.
    """

    def row(record: Mapping[str, Any]) -> Row:
        parts = [part.strip() for part in record["document"].split("\n\n")]
        passages = [Passage.of(part) for part in parts if part]
        return Row(f"hotpot-{record['id']}", record["question"], record["answers"], passages)

    return _rows(path, read_rows(path), row)


def popqa(path: str | Path, retrieved: str | Path) -> list[Row]:
    """PopQA: aliases from one file, five retrieved passages (title, line break, text) from another, in one order.

    ``gold`` is the first passage that holds an answer, None if none does.
    """
    documents = {record["id"]: record for record in read_rows(retrieved)}

    def row(record: Mapping[str, Any]) -> Row:
        document = documents[record["id"]]
        if document["question"] != record["question"]:
            got, expected = document["question"], record["question"]
            raise DataError(f"{retrieved} belongs to other questions", got=got, expected=expected)
        answers = json.loads(record["possible_answers"])
        passages = [Passage.of(text, title) for title, _, text in (doc.partition("\n") for doc in document["docs"])]
        return Row(f"popqa-{record['id']}", record["question"], answers, passages, _first_gold(passages, answers))

    return _rows(path, read_rows(path), row)


def numbered(path: str | Path) -> list[Row]:
    """Questions with retrieved passages that are numbered: ``Document 1 (Title: the title): the text``.

    ``gold`` is the first passage that holds an answer, None if none does.
    """
    records = [{**record, "number": i} for i, record in enumerate(read_rows(path))]
    name, width = Path(path).name.partition(".")[0], len(str(len(records)))

    def row(record: Mapping[str, Any]) -> Row:
        passages, answers = [_numbered(text) for text in record["passages"]], record["answers"]
        identity = f"{name}-{record['number']:0{width}}"
        return Row(identity, record["question"], answers, passages, _first_gold(passages, answers))

    return _rows(path, records, row)


def oracle(path: str | Path) -> list[Row]:
    """NQ-Open with one gold passage a question (``ctxs``), the basis of multi-document questions.

    Raises:
        DataError: Besides damage, a question whose gold passage is not marked.
    """
    records = read_rows(path)
    width = len(str(len(records)))

    def row(record: Mapping[str, Any]) -> Row:
        marked = [passage for passage in record["ctxs"] if passage["isgold"]]
        if not marked:
            raise DataError(
                f"A question in {path} has no gold passage", got=record["question"], expected="isgold: true"
            )
        passage = Passage.of(marked[0]["text"], marked[0]["title"])
        return Row(f"nq-{record['number']:0{width}}", record["question"], record["answers"], [passage], 0)

    return _rows(path, [{**record, "number": i} for i, record in enumerate(records)], row)


def question_task(name: str, rows: Iterable[Row], notes: Sequence[str] = ()) -> Task:
    """Questions with passages as a task: all are test rows, the store holds the passages of all.

    The target, whose probability is measured, is the first accepted answer that a passage (the gold one, if known)
    holds, else the first. Answers of which nothing is left when they are normalised, such as ``*``, are dropped:
    everything would contain them.

    Args:
        name: Of the set.
        rows: The questions; their ids differ.
        notes: What a reader of a score must know.

    Raises:
        DataError: A question has no text, answer or passage, or shares its id; names it.
    """
    own = OwnPassages()
    examples: dict[str, Example] = {}
    for number, row in enumerate(rows, 1):
        if row.id in examples:
            raise DataError(f"Two questions of {name} have the id {row.id!r}")
        examples[row.id] = _example(row, number, own)
    schema = Schema(name, "generation", template=QUESTION, metric="token_f1")
    digest = hashlib.sha256(
        repr([(e.id, e.text, e.target, e.contexts) for e in examples.values()]).encode()
    ).hexdigest()
    source = {"name": name, "sha256": digest}
    return Task(schema, (), (), tuple(examples.values()), tuple(notes), source, store=tuple(own.added))


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Objects out of a JSON list or of JSON lines, by what the file begins with; ``.gz`` is unpacked.

    Raises:
        DataError: If the file is missing, empty or damaged.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
        lines = (line for line in text.split("\n") if line.strip())  # splitlines would break at U+2028 in a text
        rows = json.loads(text) if text.lstrip()[:1] == "[" else [json.loads(line) for line in lines]
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"Cannot read {path}: {error}", fix="Check the path, and that the file is whole.") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds no questions", expected="JSON objects, one a line or in a list")
    return rows


def _two_wiki(data: Path) -> Iterator[Row]:
    yield from hotpot(data / "2wikimultihopqa" / "dev_200.jsonl.gz")
    yield from hotpot(data / "2wikimultihopqa" / "train_500.json.gz")


def _hotpot(data: Path) -> Iterator[Row]:
    first = hotpot(data / "hotpotqa" / "dev_200.jsonl.gz")
    known = {row.question for row in first}
    yield from first
    yield from (row for row in joined_hotpot(data / "hotpotqa" / "distractor_300.json.gz") if row.question not in known)


READERS: Mapping[str, Callable[[Path], Task]] = {
    "2wiki": lambda data: question_task("2wiki", _two_wiki(data)),
    "hotpot": lambda data: question_task("hotpot", _hotpot(data)),
    "popqa": lambda data: question_task(
        "popqa", popqa(data / "popqa-1000" / "popqa.json.gz", data / "popqa-1000" / "retrieved.jsonl.gz")
    ),
    "nq": lambda data: question_task("nq", numbered(data / "activerag-500" / "nq.jsonl.gz")),
    "triviaqa": lambda data: question_task("triviaqa", numbered(data / "activerag-500" / "triviaqa.jsonl.gz")),
}
"""Sets by name, out of a folder of data that the user gives."""


def _example(row: Row, number: int, own: OwnPassages) -> Example:
    answers = [answer for answer in row.answers if normalise(answer)]
    for problem, there in (("text", row.question.strip()), ("answer", answers), ("passages", row.passages)):
        if not there:
            raise DataError(f"The question {row.id} has no {problem}", got=repr(row.question)[:80])
    read = row.passages if row.gold is None else [row.passages[row.gold]]
    target = next((a for a in answers if any(answered_by(passage, [a]) for passage in read)), answers[0])
    ids = tuple(own.add(passage).id for passage in row.passages)
    return Example(
        row.question,
        target,
        row.id,
        text_key(row.question),
        number,
        tuple(answer for answer in answers if answer != target),
        () if row.gold is None else (ids[row.gold],),
        ids,
    )


def _first_gold(passages: Sequence[Passage], answers: Sequence[str]) -> int | None:
    return next((place for place, passage in enumerate(passages) if answered_by(passage, answers)), None)


def _numbered(text: str) -> Passage:
    match = re.match(r"Document \d+ \(Title: (.*?)\): ", text, re.DOTALL)
    if match is None:
        raise DataError("A passage has no number and title", got=repr(text[:60]), expected="Document 1 (Title: ..): ..")
    return Passage.of(text[match.end() :], match[1])


def _join(sentences: str | Sequence[str]) -> str:
    parts = [sentences] if isinstance(sentences, str) else sentences
    return " ".join(part.strip() for part in parts)


def _rows(path: str | Path, records: Sequence[Mapping[str, Any]], row: Callable[[Mapping[str, Any]], Row]) -> list[Row]:
    try:
        rows = [row(record) for record in records]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not in the expected form: {type(error).__name__} {error}") from error
    if not rows:
        raise DataError(f"{path} holds no question with passages")
    return rows
