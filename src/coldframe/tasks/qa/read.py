"""Files of questions: our own JSON lines, and published forms of HotpotQA, 2WikiMultihopQA, PopQA, NQ and TriviaQA."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coldframe.errors import DataError
from coldframe.storage.files import atomic_path
from coldframe.tasks.qa.question import Passage, Question, answered_by


def read_questions(path: str | Path) -> list[Question]:
    """Questions as :func:`write_questions` writes them: one JSON object a line; ``.gz`` is unpacked.

    Raises:
        DataError: If the file is missing, empty or damaged, or two questions have one id.
    """
    return _distinct([Question.from_dict(row) for row in read_rows(path)], path)


def write_questions(questions: Iterable[Question], path: str | Path) -> None:
    """Write questions as JSON lines, whole or not at all."""
    lines = [json.dumps(question.to_dict(), ensure_ascii=False) + "\n" for question in questions]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


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


def hotpot(path: str | Path) -> list[Question]:
    """HotpotQA and 2WikiMultihopQA in the distractor form: ``context`` is a list of (title, sentences).

    Two passages are gold, so ``gold`` is not said. Rows without any context are left out.
    """

    def question(row: Mapping[str, Any]) -> Question:
        passages = tuple(Passage(title, _join(sentences)) for title, sentences in row["context"])
        return Question(str(row["_id"]), row["question"], (row["answer"],), passages)

    return _each(path, question, lambda row: bool(row.get("context")))


def joined_hotpot(path: str | Path) -> list[Question]:
    """HotpotQA with the ten paragraphs in one text, a blank line between them, each begun by its title.

    Where a title ends cannot be told for sure, so it stays in the text.
    """

    def question(row: Mapping[str, Any]) -> Question:
        parts = [part.strip() for part in row["document"].split("\n\n")]
        passages = tuple(Passage("", part) for part in parts if part)
        return Question(f"hotpot-{row['id']}", row["question"], tuple(row["answers"]), passages)

    return _each(path, question)


def popqa(path: str | Path, retrieved: str | Path) -> list[Question]:
    """PopQA: aliases from one file, five retrieved passages (title, line break, text) from another, in one order.

    ``gold`` is the first passage that holds an answer, None if none does.
    """
    docs = {row["id"]: row for row in read_rows(retrieved)}

    def question(row: Mapping[str, Any]) -> Question:
        found = docs[row["id"]]
        if found["question"] != row["question"]:
            raise DataError(f"{retrieved} belongs to other questions", got=found["question"], expected=row["question"])
        answers = tuple(json.loads(row["possible_answers"]))
        passages = tuple(Passage(*(part.strip() for part in doc.partition("\n")[::2])) for doc in found["docs"])
        gold = next((i for i, passage in enumerate(passages) if answered_by(passage, answers)), None)
        return Question(f"popqa-{row['id']}", row["question"], answers, passages, gold)

    return _each(path, question)


def numbered(path: str | Path) -> list[Question]:
    """Questions with retrieved passages that are numbered: ``Document 1 (Title: the title): the text``.

    ``gold`` is the first passage that holds an answer, None if none does.
    """
    rows = [{**row, "number": i} for i, row in enumerate(read_rows(path))]
    name, width = Path(path).name.partition(".")[0], len(str(len(rows)))

    def question(row: Mapping[str, Any]) -> Question:
        passages = tuple(_numbered(text) for text in row["passages"])
        answers = tuple(row["answers"])
        gold = next((i for i, passage in enumerate(passages) if answered_by(passage, answers)), None)
        return Question(f"{name}-{row['number']:0{width}}", row["question"], answers, passages, gold)

    return _build(path, rows, question)


def oracle(path: str | Path) -> list[Question]:
    """NQ-Open with one gold passage a question (``ctxs``), the basis of multi-document questions.

    Raises:
        DataError: Besides damage, a question whose gold passage is not marked.
    """
    rows = read_rows(path)
    width = len(str(len(rows)))

    def question(row: Mapping[str, Any]) -> Question:
        found = [one for one in row["ctxs"] if one["isgold"]]
        if not found:
            raise DataError(f"A question in {path} has no gold passage", got=row["question"], expected="isgold: true")
        passage = Passage(found[0]["title"], found[0]["text"])
        return Question(f"nq-{row['number']:0{width}}", row["question"], tuple(row["answers"]), (passage,), 0)

    return _build(path, [{**row, "number": i} for i, row in enumerate(rows)], question)


def _two_wiki(data: Path) -> list[Question]:
    home = data / "2wikimultihopqa"
    return _distinct([*hotpot(home / "dev_200.jsonl.gz"), *hotpot(home / "train_500.json.gz")], home)


def _hotpot(data: Path) -> list[Question]:
    home = data / "hotpotqa"
    first = hotpot(home / "dev_200.jsonl.gz")
    known = {question.question for question in first}
    return first + [one for one in joined_hotpot(home / "distractor_300.json.gz") if one.question not in known]


def _popqa(data: Path) -> list[Question]:
    home = data / "popqa-1000"
    return popqa(home / "popqa.json.gz", home / "retrieved.jsonl.gz")


READERS: Mapping[str, Callable[[Path], list[Question]]] = {
    "2wiki": _two_wiki,
    "hotpot": _hotpot,
    "popqa": _popqa,
    "nq": lambda data: numbered(data / "activerag-500" / "nq.jsonl.gz"),
    "triviaqa": lambda data: numbered(data / "activerag-500" / "triviaqa.jsonl.gz"),
}
"""Sets by name, out of a folder of data that the user gives."""


def _numbered(text: str) -> Passage:
    found = re.match(r"Document \d+ \(Title: (.*?)\): ", text, re.DOTALL)
    if found is None:
        raise DataError("A passage has no number and title", got=repr(text[:60]), expected="Document 1 (Title: ..): ..")
    return Passage(found[1].strip(), text[found.end() :].strip())


def _join(sentences: str | Sequence[str]) -> str:
    parts = [sentences] if isinstance(sentences, str) else sentences
    return " ".join(part.strip() for part in parts)


def _each(
    path: str | Path,
    question: Callable[[Mapping[str, Any]], Question],
    wanted: Callable[[Mapping[str, Any]], bool] = lambda row: True,
) -> list[Question]:
    return _build(path, read_rows(path), question, wanted)


def _build(
    path: str | Path,
    rows: Sequence[Mapping[str, Any]],
    question: Callable[[Mapping[str, Any]], Question],
    wanted: Callable[[Mapping[str, Any]], bool] = lambda row: True,
) -> list[Question]:
    try:
        found = _distinct([question(row) for row in rows if wanted(row)], path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not in the expected form: {type(error).__name__} {error}") from error
    if not found:
        raise DataError(f"{path} holds no question with passages", got=f"{len(rows)} rows")
    return found


def _distinct(questions: list[Question], path: str | Path) -> list[Question]:
    seen: set[str] = set()
    for one in questions:
        if one.id in seen:
            raise DataError(f"Two questions in {path} have the id {one.id!r}")
        seen.add(one.id)
    return questions
