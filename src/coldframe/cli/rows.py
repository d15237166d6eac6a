"""Rows for an artifact to answer: its own test rows, a file's labelled rows, texts to predict."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from coldframe.errors import DataError, LeakError
from coldframe.tasks import load_task
from coldframe.tasks.columns import TEXT_NAMES, Columns, input_columns, question_columns, table_columns
from coldframe.tasks.examples import ExampleReader
from coldframe.tasks.load import is_builtin
from coldframe.tasks.options import TaskConfig
from coldframe.tasks.origin import load_again
from coldframe.tasks.passages import names_of
from coldframe.tasks.rows import SUFFIXES, OnError, Problems, Table, located, parse, read_table
from coldframe.tasks.task import Example, Passage, Schema

if TYPE_CHECKING:
    from coldframe.pipeline.pipeline import Pipeline

Format = Literal["auto", "text", "csv", "tsv", "jsonl", "parquet"]


def own_test(pipeline: Pipeline, allow_leaks: bool) -> tuple[Sequence[Example], list[str]]:
    """The test rows of the task that an artifact was fitted to, and what is to be known about them.

    Raises:
        LeakError: Some of them are in the artifact, unless that is allowed, or was when the task was loaded.
    """
    from coldframe.pipeline.setup import readable_task

    task = readable_task(pipeline.lm, load_again(pipeline.task), pipeline.method.soft_token_count)
    allowed = bool(task.options.get("allow_leaks"))
    leaks = _leaks(pipeline, task.test, allow_leaks or allowed)
    return task.test, [*task.notes, *([] if allowed else leaks)]


def labelled(
    pipeline: Pipeline, data: str, text: str | None, label: str | None, on_error: OnError, allow_leaks: bool
) -> tuple[Sequence[Example], list[str]]:
    """All rows of a file (the test rows of a built-in task) as queries with their targets.

    Raises:
        LeakError: Some of them are exemplars of the artifact, unless allowed.
        DataError: A row cannot be used, or its label was not in training.
    """
    schema, problems = pipeline.schema, Problems(on_error)
    own: Sequence[Passage] = ()
    passages = [entry for entry in pipeline.store.examples if isinstance(entry, Passage)]
    if is_builtin(data):
        examples: Sequence[Example] = load_task(data, raw_smiles=schema.raw_smiles).test
    else:
        table = read_table(data, problems)
        if schema.kind == "generation" and passages and "question" in table.columns and text is None and label is None:
            columns = question_columns(table)
        else:
            columns = _columns(pipeline, table, text, label)
        reader = ExampleReader(schema.domain, schema.kind, schema.raw_smiles, passages, names_of(passages))
        examples = [example for example, _ in reader.read(table, columns, Path(data).stem, problems)]
        own = reader.own.added
    usable = pipeline.readable([example for example in examples if _known(example, schema, problems)], problems)
    if not usable:
        raise DataError(f"{data} has no usable rows", fix="Check the columns and labels.")
    notes = problems.notes()
    if own:
        from coldframe.retrieval.store import Store

        pipeline.replace_store(Store.of([*pipeline.store.examples, *own]))
        notes.append(f"{len(own)} passages came with the rows; each row gets its own.")
    return usable, notes + _leaks(pipeline, usable, allow_leaks)


def _leaks(pipeline: Pipeline, rows: Sequence[Example], allow: bool) -> list[str]:
    """Notes on rows that can be retrieved, or that the method was trained with.

    Raises:
        LeakError: There are some, unless allowed.
    """
    stored, notes = {}, []
    if pipeline.method.uses_retrieval:
        stored = {example.key: example.id for example in pipeline.store.examples}
    retrievable = [f"{row.id} = {stored[row.key]}" for row in rows if row.key in stored]
    trained = [f"row {row.row} {row.text[:60]!r}" for row in rows if row.key in pipeline.trained_keys - stored.keys()]
    for names, seen in ((retrievable, "are among the artifact's exemplars"), (trained, "were used in training")):
        if not names:
            continue
        problem = f"{len(names)} of {len(rows)} rows {seen} ({', '.join(names[:5])})"
        if not allow:
            raise LeakError(problem, fix="Leave them out, or pass --allow-leaks to score them and say so.")
        notes.append(f"LEAK: {problem}.")
    return notes


def texts_of(
    pipeline: Pipeline, source: str, kind: Format, column: str | None, problems: Problems
) -> Iterator[tuple[int, str]]:
    """Row number and input of everything to predict, line by line where the format allows.

    Args:
        pipeline: Says what the text column is called.
        source: A file, or ``-`` for standard input.
        kind: How to read it; ``"auto"`` goes by the file's ending, and reads plain lines from standard input.
        column: Name of the text column, if not that of training.
        problems: Gets the rows that cannot be read.
    """
    suffix = Path(source).suffix.lower() if source != "-" else ""
    if kind == "auto":
        kind = {".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}.get(
            suffix, "text"
        )  # type: ignore[assignment]
    if kind == "text":
        yield from _lines(source)
        return
    if source == "-":
        columns, rows = parse(sys.stdin.buffer.read(), f".{kind}", "standard input", problems)
        table = Table("standard input", tuple(columns), tuple(rows))
    else:
        table = read_table(source, problems)
    names = _text_columns(pipeline, table, column)
    for row in table.rows:
        try:
            text = names.text(row.values)
        except DataError as error:
            problems.add(located(table, row, error))
            continue
        yield row.number, text


def _lines(source: str) -> Iterator[tuple[int, str]]:
    name = "standard input" if source == "-" else source
    try:
        file = sys.stdin.buffer if source == "-" else open(source, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(
            f"Cannot read {source} ({error.strerror})", fix="Check the path, or pass - for stdin."
        ) from error
    with file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"{name}, line {number}: not UTF-8", fix="Save the text as UTF-8.") from error
            if text:
                yield number, text


def _text_columns(pipeline: Pipeline, table: Table, column: str | None) -> Columns:
    """The columns that make the input: as asked, as in training, or the only one there is."""
    options = pipeline.task.get("options") or {}
    named, template = column or options.get("text"), None if column else options.get("template")
    if named:
        config = TaskConfig(text=named, template=template, label=options.get("label"))
        texts, between = input_columns(config, table)
        return Columns(texts, "", between)
    usual = [name for name in table.columns if name.casefold() in TEXT_NAMES]
    if len(table.columns) == 1 or usual:
        return Columns((usual[0] if usual else table.columns[0],), "")
    raise DataError(
        f"{table.name} does not say which column is the input", got=", ".join(table.columns), fix="Name it: --text COL"
    )


def _columns(pipeline: Pipeline, table: Table, text: str | None, label: str | None) -> Columns:
    label = label or (pipeline.task.get("options") or {}).get("label")
    columns = _text_columns(pipeline, table, text)
    if (contexts := (pipeline.task.get("options") or {}).get("contexts")) in table.columns:
        columns = dataclasses.replace(columns, contexts=contexts)
    if label is None:
        label = table_columns(TaskConfig(text=",".join(columns.texts)), table)[0].label
    return dataclasses.replace(columns, label=table.require(label))


def _known(example: Example, schema: Schema, problems: Problems) -> bool:
    if schema.kind == "generation" or example.target in schema.labels:
        return True
    problems.add(
        DataError(
            f"Row {example.row} has a label that was not in training",
            got=example.target,
            expected=", ".join(schema.labels[:20]),
            fix="Mend it, or pass --on-error skip.",
        )
    )
    return False


__all__ = ["SUFFIXES", "Format", "labelled", "own_test", "texts_of"]
