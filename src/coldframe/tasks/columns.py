"""Which columns of a table hold what, and how several of them make one text."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping, Sequence
from typing import Any

from coldframe.errors import ConfigError, DataError
from coldframe.tasks.cells import as_texts, text_in
from coldframe.tasks.contexts import CONTEXT_NAMES, context_column, holds_lists
from coldframe.tasks.options import TaskConfig
from coldframe.tasks.table import Row, Table

TEXT_NAMES = ("smiles", "text", "sentence", "question", "input", "prompt", "query", "content", "message", "mol")
LABEL_NAMES = ("label", "labels", "class", "target", "category", "y", "answer", "answers", "output", "response")
SPLIT_NAMES = ("split", "partition", "fold", "subset")
ID_NAMES = ("id", "_id")


@dataclasses.dataclass(frozen=True)
class Columns:
    r"""The columns of a table that are read.

    Attributes:
        texts: Input columns; several make one text.
        label: Of the target, or of a list of accepted answers.
        between: What stands between the cells of several input columns, one text fewer than these.
        contexts: Of the passages that came with a row.
        gold: Of the passages that hold the answer: their ids or titles, or places (from 0) among the row's own.
        hops: Of the number of facts it takes.
        group: Equal in rows that are not independent.
        id: Of a name for the row.

    Example:
        >>> Columns(("question", "snippet"), "answer", ("\nSnippet: ",)).text({"question": "Why?", "snippet": "So."})
        'Why?\nSnippet: So.'
    """

    texts: tuple[str, ...]
    label: str
    between: tuple[str, ...] = ()
    contexts: str | None = None
    gold: str | None = None
    hops: str | None = None
    group: str | None = None
    id: str | None = None

    def text(self, values: Mapping[str, Any]) -> str:
        """The input of a row.

        Raises:
            DataError: All its cells are empty.
        """
        cells = [text_in(values, column) for column in self.texts]
        if not any(cells):
            raise DataError(f"the text is empty (column {self.texts[0]!r})")
        return cells[0] + "".join(between + cell for between, cell in zip(self.between, cells[1:], strict=True))


def table_columns(config: TaskConfig, table: Table) -> tuple[Columns, list[str]]:
    """The columns of a table of rows, as the user says or as their names and cells suggest, and notes on the guesses.

    Raises:
        DataError: A column is not there, or it cannot be told which one is the label.
    """
    notes = []
    label = table.require(config.label) if config.label is not None else None
    reserved = tuple(
        c for c in table.columns if c == label or c.casefold() in (*SPLIT_NAMES, *LABEL_NAMES, *TEXT_NAMES)
    )
    contexts, gold = context_column(table, config.contexts, reserved), None
    if config.store is not None and config.contexts is None and "passages" in table.columns:
        contexts, gold = (None if contexts == "passages" else contexts), "passages"
    if contexts is not None and config.contexts is None:
        notes.append(f"Took the lists in column {contexts!r} as the passages of each row.")
    free = [c for c in table.columns if c not in (label, contexts, gold) and c.casefold() not in SPLIT_NAMES]
    texts, between = input_columns(config, table)
    if not texts:
        texts = (_named(free, TEXT_NAMES) or _longest(free, table),)
        notes.append(f"Took column {texts[0]!r} as the input.")
    free = [column for column in free if column not in texts]
    if label is None:
        label = _named(free, LABEL_NAMES) or _only(free) or _only([c for c in free if _repeats(table, c)])
        if label is None:
            raise DataError(
                f"{table.name} does not say which column is the label",
                got=", ".join(free) or "no further column",
                fix="Name it: label='...' (--label on the command line).",
            )
        notes.append(f"Took column {label!r} as the label.")
        free.remove(label)
    columns = Columns(texts, label, between, contexts, gold)
    if contexts is not None or gold is not None:
        columns = _with_question_columns(table, columns)
    unused = [c for c in free if c not in dataclasses.astuple(columns) and c.casefold() not in ID_NAMES]
    if unused and config.text is None and config.template is None:
        shown = ", ".join(map(repr, unused[:8])) + (", ..." if len(unused) > 8 else "")
        notes.append(
            f"Left out column(s) {shown}; to read more than {texts[0]!r}, name them all: "
            f"text='{','.join((*texts, unused[0]))}' (--text on the command line)."
        )
    return columns, notes


def question_columns(table: Table, contexts: str | None = None) -> Columns:
    """The columns of a file of questions: ``question``, ``answer`` or ``answers``, and what is there besides.

    Raises:
        DataError: A column is missing.
    """
    table.require("question")
    label = "answers" if "answers" in table.columns else table.require("answer")
    if contexts is None:
        usual = (name for name in CONTEXT_NAMES if name in table.columns and name != "passages")
        contexts = next((name for name in usual if holds_lists(table, name)), None)
    return _with_question_columns(table, Columns(("question",), label, contexts=contexts, gold="passages"))


def _with_question_columns(table: Table, columns: Columns) -> Columns:
    """Columns with what only questions with passages have: it says nothing about other rows, even if called so."""
    free = [c for c in table.columns if c not in (*columns.texts, columns.label, columns.contexts)]
    gold = "gold" if "gold" in free else columns.gold
    hops, group, *ids = (name if name in free else None for name in ("hops", "group", *ID_NAMES))
    return dataclasses.replace(columns, gold=gold, hops=hops, group=group, id=next(filter(None, ids), None))


def input_columns(config: TaskConfig, table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The input columns that the user names, in the template or apart, and what stands between them.

    Raises:
        ConfigError: The template is malformed, or names other columns than ``text``.
        DataError: There is no such column.
    """
    texts: tuple[str, ...] = ()
    if config.text is not None:
        names = [config.text] if config.text in table.columns else [name.strip() for name in config.text.split(",")]
        texts = tuple(table.require(name) for name in names)
    label = config.label or label_field(config.template)
    fields = [] if config.template is None else template_columns(config.template, table, label)
    if not fields:
        return texts, tuple(f"\n{plain(name)}: " for name in texts[1:])
    columns = tuple(column for _, column in fields)
    if texts and texts != columns:
        raise ConfigError("The template names other columns than text", got=", ".join(columns), expected=config.text)
    return columns, tuple(before for before, _ in fields[1:])


def template_columns(body: str, table: Table, label: str | None) -> list[tuple[str, str]]:
    """The columns that a template names, each with the text before it; none if it only says ``{text}``.

    Raises:
        ConfigError: The template is malformed.
        DataError: There is no such column.
    """
    fields = template_fields(body, label)
    if [name for _, name in fields] == ["text"]:
        return []
    return [(before, table.require(name)) for before, name in fields]


def template_fields(body: str, label: str | None) -> list[tuple[str, str]]:
    """The fields of a template, each with the text before it; the label at its end is none of them.

    Raises:
        ConfigError: The template is malformed.
    """
    body, before = body.replace("\\n", "\n").rstrip(), ""
    fields: list[tuple[str, str]] = []
    try:
        for literal, name, _, _ in string.Formatter().parse(body):  # a brace that is text ends a literal, too
            before += literal
            if name is not None:
                fields.append((before, name))
                before = ""
    except ValueError as error:
        raise ConfigError(f"The template is malformed: {error}", got=repr(body)) from error
    return fields[:-1] if fields and body.endswith("}") and fields[-1][1] in ("label", label) else fields


def label_field(body: str | None) -> str | None:
    r"""The column that a template has at its end, if it is called like a label.

    >>> label_field("Q: {question}\nA: {answer}"), label_field("Q: {text}\nA: {label}")
    ('answer', None)
    """
    fields = [] if body is None else template_fields(body, None)
    name = fields[-1][1] if len(fields) > 1 else ""
    return name if str(body).rstrip().endswith(f"{{{name}}}") and name.casefold() in LABEL_NAMES else None


def whole_template(body: str, label: str | None) -> str:
    r"""The template with one ``{text}`` in the place of the columns that it names, and without the label.

    One that ends in a column of the input says nothing of the label: its name is put there.

    >>> whole_template("Q: {question}\nHint: {snippet}\nA: {label}", "answer")
    'Q: {text}\nA:'
    >>> whole_template("{title}\n{body}", "topic")
    '{text}\nTopic:'
    """
    fields = template_fields(body, label)
    if not fields:
        return body
    tail = body.replace("\\n", "\n").rstrip().rpartition("{" + fields[-1][1] + "}")[2]
    if not tail and [name for _, name in fields] != ["text"]:
        tail = f"\n{plain(label or 'label')}:"
    for name in ("label", label):
        tail = tail.removesuffix(f"{{{name}}}")
    head = fields[0][0].replace("{", "{{").replace("}", "}}")
    return f"{head}{{text}}{tail.rstrip()}"


def plain(column: str) -> str:
    """A column name as it may stand in a template.

    >>> plain("question_type")
    'Question type'
    """
    name = " ".join(column.replace("{", "(").replace("}", ")").replace("_", " ").split())
    return name[:1].upper() + name[1:]


def cell_text(row: Row, column: str) -> str:
    """A cell's text for guessing; unusable cells are told later, with their row."""
    try:
        return as_texts(row.values.get(column))[0]
    except DataError:
        return ""


def _named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    by_name = {column.casefold(): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def _only(columns: Sequence[str]) -> str | None:
    return columns[0] if len(columns) == 1 else None


def _repeats(table: Table, column: str) -> bool:
    """Whether a column looks like a label: 2 to 20 values, each several times on average."""
    values = {cell_text(row, column) for row in table.rows}
    return 2 <= len(values) <= 20 and 4 * len(values) <= len(table.rows)


def _longest(columns: Sequence[str], table: Table) -> str:
    """The column whose cells are longest on average; ties go to the first."""
    if not columns:
        raise DataError(f"{table.name} has no column left for the input", got=", ".join(table.columns))
    return max(columns, key=lambda column: sum(len(cell_text(row, column)) for row in table.rows[:200]))
