"""Files of questions: accepted answers, the passages that hold them, passages of their own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from coldframe.errors import DataError
from coldframe.storage.files import atomic_path
from coldframe.tasks.columns import question_columns
from coldframe.tasks.examples import ExampleReader
from coldframe.tasks.table import Problems, Table
from coldframe.tasks.task import Example, Passage, Template

QUESTION = Template("Question: {text}\nAnswer:")
"""How a question is put to a model where no other template is given."""


def read_questions(
    table: Table,
    problems: Problems,
    store: Iterable[Passage] = (),
    names: Mapping[str, Sequence[str]] | None = None,
    contexts: str | None = None,
) -> tuple[tuple[Example, ...], tuple[Passage, ...]]:
    """Questions of a table, and the passages that came with them.

    Columns: ``question``; ``answer`` or ``answers`` (in JSONL a list of accepted ones); if they are there, ``hops``,
    ``group``, ``id``, and ``passages``: ids or titles of the passages that hold the answer, one or a list (a title
    that several passages have names none). Passages that come with the question, as mappings with title and text in
    ``passages`` or as lists in a column such as ``contexts``, are its own.

    Args:
        table: The rows.
        problems: Gets those that cannot be used.
        store: The passages that are there already.
        names: Their ids by what they may be called.
        contexts: Column of the question's own passages; a list column with a usual name if None.

    Raises:
        DataError: A column is missing, or there is no usable question.
    """
    reader = ExampleReader(store=store, names=names)
    rows = reader.read(table, question_columns(table, contexts), "", problems)
    if not rows:
        raise DataError(f"{table.name} has no usable question")
    return tuple(question for question, _ in rows), tuple(reader.own.added)


def write_questions(path: Path, questions: Iterable[Example], passages: Mapping[str, Passage] | None = None) -> None:
    """Questions as JSON lines that :func:`read_questions` and ``load_task`` read.

    Args:
        path: The file; written whole or not at all.
        questions: The rows.
        passages: By id, those that come with questions as their contexts.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        for question in questions:
            record: dict[str, object] = {
                "id": question.id, "question": question.text, "answers": [question.target, *question.references],
                "gold": question.gold, "hops": question.hops, "group": question.group,
            }  # fmt: skip
            if question.contexts is not None and passages is not None:
                own = [passages[identity] for identity in question.contexts]
                record["contexts"] = [{"id": p.id, "title": p.title, "text": p.body} for p in own]
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
