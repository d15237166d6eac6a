"""Rows of a table that are questions: accepted answers, the passages that hold them, passages of their own."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from coldframe.errors import DataError
from coldframe.storage.files import atomic_path
from coldframe.tasks.cells import as_text, as_texts
from coldframe.tasks.contexts import CONTEXT_NAMES, OwnPassages, holds_lists, passages_of
from coldframe.tasks.passages import ID_NAMES
from coldframe.tasks.rows import Problems, Row, Table, located
from coldframe.tasks.task import Example, Passage, Template, content_hash, text_key

QUESTION = Template("Question: {text}\nAnswer:")
"""How a question is put to a model where no other template is given."""


@dataclasses.dataclass(frozen=True)
class QuestionRows:
    """Questions as they were read.

    Attributes:
        questions: With the ids of their ``gold`` passages, and of their own as ``contexts``.
        passages: Those that came with the questions, each once.
        notes: What was left out, in sentences.
    """

    questions: tuple[Example, ...]
    passages: tuple[Passage, ...]
    notes: tuple[str, ...] = ()


def read_questions(
    table: Table,
    problems: Problems,
    store: Sequence[Passage] = (),
    names: Mapping[str, Sequence[str]] | None = None,
    contexts: str | None = None,
) -> QuestionRows:
    """Questions of a table.

    Columns: ``question``; ``answer`` or ``answers`` (in JSONL a list of accepted ones); if they are there, ``hops``,
    ``id``, and ``passages``: ids or titles of the passages that hold the answer, one or a list (a title that several
    passages have names none). Passages that come with the question, as mappings with title and text in ``passages``
    or in a column ``contexts``, are its own.

    Args:
        table: The rows.
        problems: Gets those that cannot be used.
        store: The passages that are there already.
        names: Their ids by what they may be called.
        contexts: Column of the question's own passages; one of ``CONTEXT_NAMES`` if None.

    Raises:
        DataError: A column is missing, or there is no usable question.
    """
    table.require("question")
    if "answers" not in table.columns:
        table.require("answer")
    if contexts is None:
        usual = (name for name in CONTEXT_NAMES if name in table.columns and name != "passages")
        contexts = next((name for name in usual if holds_lists(table, name)), None)
    identity = next((name for name in ID_NAMES if name in table.columns), None)
    own = OwnPassages(store)
    questions: dict[str, Example] = {}
    repeats: list[tuple[int, int]] = []
    for row in table.rows:
        try:
            question = _question(row, identity, names or {}, own, contexts)
            if (first := questions.get(question.id)) is not None:
                if identity is not None and as_text(row.values.get(identity)):
                    raise DataError(f"the id {question.id!r} is that of the question in row {first.row}")
                repeats.append((row.number, first.row))
                continue
        except DataError as error:
            problems.add(located(table, row, error))
            continue
        questions[question.id] = question
    if not questions:
        raise DataError(f"{table.name} has no usable question")
    notes: tuple[str, ...] = ()
    if repeats:
        again, before = repeats[0]
        notes = (
            f"Left out {len(repeats)} question(s) that were there before; the first in row {again} "
            f"(the same as row {before}).",
        )
    return QuestionRows(tuple(questions.values()), tuple(own.added), notes)


def write_questions(path: Path, questions: Iterable[Example], passages: Mapping[str, Passage] | None = None) -> None:
    """Questions as JSON lines that :func:`read_questions` reads.

    Args:
        path: The file; written whole or not at all.
        questions: The rows.
        passages: By id, those that come with questions as their contexts.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        for question in questions:
            record: dict[str, object] = {
                "id": question.id, "question": question.text, "answers": [question.target, *question.references],
                "passages": question.gold, "hops": question.hops,
            }  # fmt: skip
            if question.contexts is not None and passages is not None:
                own = [passages[identity] for identity in question.contexts]
                record["contexts"] = [{"id": p.id, "title": p.title, "text": p.body} for p in own]
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def _question(
    row: Row, identity: str | None, names: Mapping[str, Sequence[str]], own: OwnPassages,
    contexts: str | None,
) -> Example:  # fmt: skip
    cell = row.values.get("answers")
    text, answers = as_text(row.values.get("question")), as_texts(row.values.get("answer") if cell is None else cell)
    if not text:
        raise DataError("the question is empty")
    if not answers[0]:
        raise DataError("the answer is empty")
    hops = as_text(row.values.get("hops")) or "1"
    if not hops.isdecimal() or int(hops) < 1:
        raise DataError("hops is not a number of facts", got=hops, expected="1, 2, ...")
    brought = _brought(row, contexts)
    stored = None if brought is None else [own.add(passage) for passage in brought]
    named: defaultdict[str, list[str]] = defaultdict(list)
    for passage, entry in zip(brought or (), stored or (), strict=True):
        for name in {passage.id, passage.title, entry.id}:
            named[name].append(entry.id)
    ids = None if stored is None else tuple(entry.id for entry in stored)
    name = as_text(row.values.get(identity)) if identity is not None else ""
    return Example(
        text,
        answers[0],
        name or content_hash(text, *answers, *(ids or ())),
        text_key(text),
        row.number,
        answers[1:],
        _gold(row, {**names, **named}),
        ids,
        int(hops),
    )


def _brought(row: Row, contexts: str | None) -> tuple[Passage, ...] | None:
    """The passages that come with a question; None if it is asked of the whole store."""
    if contexts is not None and row.values.get(contexts) not in (None, ""):
        return passages_of(row.values[contexts])
    listed = row.values.get("passages")
    return passages_of(listed) if _are_mappings(listed) else None


def _gold(row: Row, names: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Ids of the passages that hold the answer, out of what they are called."""
    listed = row.values.get("passages")
    ids: list[str] = []
    for name in as_texts(listed) if listed and not _are_mappings(listed) else ():
        called = names.get(name, ())
        if len(called) != 1:
            problem = f"{len(called)} passages have the title {name!r}" if called else f"there is no passage {name!r}"
            raise DataError(problem, fix="Name passages by their id, or by a title that no other has.")
        ids += called
    return tuple(ids)


def _are_mappings(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)
