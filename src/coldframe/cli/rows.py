"""Rows for an artifact to answer: its own test rows, a file's labelled rows, texts to predict."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from coldframe.config import local_path
from coldframe.errors import DataError, LeakError
from coldframe.tasks import load_task
from coldframe.tasks.cells import as_text, text_in
from coldframe.tasks.columns import ID_NAMES, TEXT_NAMES, Columns, input_columns, question_columns, table_columns
from coldframe.tasks.examples import ExampleReader
from coldframe.tasks.labels import known_label
from coldframe.tasks.load import is_builtin
from coldframe.tasks.molecules import first_word
from coldframe.tasks.options import TaskConfig
from coldframe.tasks.origin import load_again
from coldframe.tasks.passages import names_of
from coldframe.tasks.rows import SUFFIXES, parse, read_table, stem_of, suffix_of
from coldframe.tasks.table import OnError, Problems, Table, located
from coldframe.tasks.task import Example, Passage, Schema

if TYPE_CHECKING:
    from coldframe.pipeline.pipeline import Pipeline

Format = Literal["auto", "text", "csv", "tsv", "jsonl", "json", "parquet", "xlsx"]


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
        drop_names = bool((pipeline.task.get("options") or {}).get("drop_names"))
        names = names_of(passages)
        reader = ExampleReader(schema.domain, schema.kind, schema.raw_smiles, passages, names, drop_names)
        examples = [example for example, _ in reader.read(table, columns, stem_of(Path(data)), problems)]
        own = reader.own.added
    merge = bool((pipeline.task.get("options") or {}).get("merge_labels"))
    known = [row for example in examples if (row := _known(example, schema, problems, merge)) is not None]
    usable = pipeline.readable(known, problems)
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


@dataclasses.dataclass(frozen=True)
class Query:
    """An input to predict.

    Attributes:
        place: 1-based position among all inputs, whatever their format.
        where: What errors call it: the source, and the line or row.
        text: The input.
        id: Its own name; empty if it has none, None if there are no such names.
    """

    place: int
    where: str
    text: str
    id: str | None = None


def texts_of(pipeline: Pipeline, source: str, kind: Format, column: str | None, problems: Problems) -> Iterator[Query]:
    """Everything to predict, line by line where the format allows.

    Args:
        pipeline: Says what the text column is called.
        source: A file, or ``-`` for standard input.
        kind: How to read it; ``"auto"`` goes by the file's ending, and reads plain lines from standard input.
        column: Name of the text column, if not that of training.
        problems: Gets the rows that cannot be read.
    """
    drop_names = bool((pipeline.task.get("options") or {}).get("drop_names"))
    if kind == "text" or (kind == "auto" and (source == "-" or suffix_of(Path(source)) not in SUFFIXES)):
        queries = _lines(source, problems)
    else:
        queries = _cells(pipeline, _table(source, kind, problems), column, problems)
    for query in queries:
        yield dataclasses.replace(query, text=first_word(query.text)) if drop_names else query


def _table(source: str, kind: Format, problems: Problems) -> Table:
    if source == "-":
        columns, rows = parse(sys.stdin.buffer.read(), f".{kind}", "standard input", problems)
        return Table("standard input", tuple(columns), tuple(rows))
    as_named = kind == "auto" or suffix_of(Path(source)).removesuffix(".gz") == f".{kind}"
    return read_table(source, problems, None if as_named else f".{kind}")


def _cells(pipeline: Pipeline, table: Table, column: str | None, problems: Problems) -> Iterator[Query]:
    names = _text_columns(pipeline, table, column)
    identity = next((c for c in table.columns if c.casefold() in ID_NAMES and c not in names.texts), None)
    for row in table.rows:
        try:
            text, own = names.text(row.values), text_in(row.values, identity) if identity else None
        except DataError as error:
            problems.add(located(table, row, error))
            continue
        yield Query(row.place or row.number, f"{table.name}, row {row.number}", text, own)


def _lines(source: str, problems: Problems) -> Iterator[Query]:
    name = "standard input" if source == "-" else Path(source).name
    try:
        file = sys.stdin.buffer if source == "-" else open(local_path(source), "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(
            f"Cannot read {source} ({error.strerror})", fix="Check the path, or pass - for stdin."
        ) from error
    place = 0
    with file:
        for number, line in enumerate(file, start=1):
            try:
                written = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"{name}, line {number}: not UTF-8", fix="Save the text as UTF-8.") from error
            if not written:
                continue
            place += 1
            if text := as_text(written):  # what is missing in a file is missing here
                yield Query(place, f"{name}, row {number}", text)
            else:
                problems.add(DataError(f"{name}, row {number}: the text is empty", got=repr(written)))


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


def _known(example: Example, schema: Schema, problems: Problems, merge: bool) -> Example | None:
    """The row with its label as the schema spells it; None if it has no such label."""
    if schema.kind == "generation":
        return example
    if (label := known_label(example.target, schema.labels, merge)) is not None:
        return dataclasses.replace(example, target=label)
    problems.add(
        DataError(
            f"Row {example.row} has a label that was not in training",
            got=example.target,
            expected=", ".join(schema.labels[:20]),
            fix="Mend it, or pass --on-error skip.",
        )
    )
    return None


__all__ = ["SUFFIXES", "Format", "Query", "labelled", "own_test", "texts_of"]
