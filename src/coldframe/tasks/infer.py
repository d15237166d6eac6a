"""What the user did not say, read off the data; every guess is returned with the sentence that admits it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from coldframe.errors import ConfigError, DataError, nearest
from coldframe.tasks.cells import as_text, as_texts
from coldframe.tasks.molecules import is_molecule
from coldframe.tasks.options import TaskConfig
from coldframe.tasks.rows import Problems, Row, Table
from coldframe.tasks.task import Domain, Kind, Template

TEXT_NAMES = ("smiles", "text", "sentence", "question", "input", "prompt", "query", "content", "message", "mol")
LABEL_NAMES = ("label", "labels", "class", "target", "category", "y", "answer", "answers", "output", "response")
SPLIT_NAMES = ("split", "partition", "fold", "subset")
PARTS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip

YES_NO = (
    ("0", "1"), ("false", "true"), ("no", "yes"), ("inactive", "active"), ("negative", "positive"),
    ("n", "y"), ("f", "t"), ("-1", "1"), ("-", "+"), ("non-toxic", "toxic"), ("nontoxic", "toxic"),
)  # fmt: skip
"""Pairs of labels (negative, positive) that answer a yes-or-no question."""

MAX_LABELS = 200
"""More distinct targets than this are taken for free text."""


def columns(config: TaskConfig, table: Table) -> tuple[list[str], str, list[str]]:
    """Text columns, label column and notes."""
    notes = []
    label = table.require(config.label) if config.label is not None else None
    free = [c for c in table.columns if c != label and c.casefold() not in SPLIT_NAMES]
    if config.text is not None:
        names = [config.text] if config.text in table.columns else [n.strip() for n in config.text.split(",")]
        texts = [table.require(name) for name in names]
    else:
        texts = [_named(free, TEXT_NAMES) or _longest(free, table)]
        notes.append(f"Took column {texts[0]!r} as the input.")
    if label is None:
        free = [c for c in free if c not in texts]
        found = _named(free, LABEL_NAMES) or _only(free) or _only([c for c in free if _repeats(table, c)])
        if found is None:
            raise DataError(
                f"{table.name} does not say which column is the label",
                got=", ".join(free) or "no further column",
                fix="Name it: label='...' (--label on the command line).",
            )
        label = found
        notes.append(f"Took column {label!r} as the label.")
    return texts, label, notes


def domain(config: TaskConfig, table: Table, texts: Sequence[str]) -> tuple[Domain, list[str]]:
    """Molecules if the column's name says so and nearly all of its first 200 cells are SMILES."""
    if config.domain != "auto":
        return config.domain, []
    name = texts[0].casefold()
    if len(texts) > 1 or not ("smiles" in name or name in ("mol", "molecule", "structure", "compound")):
        return "text", []
    cells = [cell for row in table.rows[:200] if (cell := _cell(row, texts[0]))]
    if not cells or sum(map(is_molecule, cells)) < 0.95 * len(cells):
        return "text", [f"Column {texts[0]!r} is named like molecules, but is read as text: few cells are SMILES."]
    return "molecules", [f"Took column {texts[0]!r} as molecules (SMILES)."]


def kind(config: TaskConfig, table: Table, label: str) -> tuple[Kind, list[str]]:
    """Classification if targets repeat; generation if nearly each row has its own, or several."""
    if config.kind != "auto":
        return config.kind, []
    if config.positive is not None or config.words is not None:
        return "classification", []
    cells = [row.values.get(label) for row in table.rows]
    targets = {_cell(row, label) for row in table.rows}
    if any(isinstance(cell, list) for cell in cells) or len(targets) > MAX_LABELS or 2 * len(targets) > len(cells):
        return "generation", [f"Took {label!r} as free text to generate ({len(targets)} different values)."]
    return "classification", [f"Took {label!r} as {len(targets)} classes."]


def parts(config: TaskConfig, table: Table, used: Sequence[str], problems: Problems) -> tuple[Table, list[str]]:
    """The table with each row's part read from a split column, where there is one to go by.

    A column named ``split`` (or partition, fold, subset) counts if both train and test occur in it.
    """
    named = next((c for c in table.columns if c.casefold() in SPLIT_NAMES and c not in used), None)
    if named is None or config.split not in ("auto", "given") or config.test is not None:
        return table, []
    found = [PARTS.get(_cell(row, named).casefold()) for row in table.rows]
    if not {"train", "test"} <= set(found):
        return table, []
    rows = []
    for row, part in zip(table.rows, found, strict=True):
        if part is None:
            where = f"{table.name}, row {row.number}: unknown split"
            problems.add(DataError(where, got=repr(_cell(row, named)), expected="train, validation or test"))
        else:
            rows.append(dataclasses.replace(row, part=part))
    return dataclasses.replace(table, rows=tuple(rows)), [f"Took the split from column {named!r}."]


def labels(
    config: TaskConfig, targets: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], str | None, list[str]]:
    """Labels in order (numbers by value, the positive one last), their words, the positive label, notes."""
    names = sorted(set(targets))
    if all(_is_number(name) for name in names):
        names.sort(key=float)
    positive, notes = config.positive, []
    pair = _yes_no(names)
    if positive is None and pair is not None:
        positive = pair[1]
        notes.append(f"Took {positive!r} as the positive label.")
    if len(names) == 2 and positive in names:
        names.sort(key=lambda name: name == positive)
    words = dict(zip(names, ("No", "Yes") if pair is not None else names, strict=True))
    for label, word in (config.words or {}).items():
        if label not in words:
            raise ConfigError(f"words names a label that no row has: {label!r}", fix=nearest(label, words))
        words[label] = word.strip()
    if not all(words.values()):
        raise ConfigError("Every label needs a word that is not empty", got=words)
    return tuple(names), tuple(words.values()), positive, notes


def template(config: TaskConfig, text: str, label: str, kind: Kind, words: Sequence[str]) -> Template:
    """The user's template, or one made of the column names and the answer words."""
    body = f"{_plain(text)}: {{text}}\n{_plain(label)}:" if config.template is None else config.template
    instruction = config.instruction
    if instruction is None:
        few = kind == "classification" and len(words) <= 20
        instruction = f"Answer with one of: {', '.join(words)}." if few else ""
    return Template(body, instruction)


def _named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    by_name = {column.casefold(): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def _only(columns: Sequence[str]) -> str | None:
    return columns[0] if len(columns) == 1 else None


def _repeats(table: Table, column: str) -> bool:
    """Whether a column looks like a label: 2 to 20 values, each several times on average."""
    values = {_cell(row, column) for row in table.rows}
    return 2 <= len(values) <= 20 and 4 * len(values) <= len(table.rows)


def _longest(columns: Sequence[str], table: Table) -> str:
    """The column whose cells are longest on average; ties go to the first."""
    if not columns:
        raise DataError(f"{table.name} has no column left for the input", got=", ".join(table.columns))
    return max(columns, key=lambda column: sum(len(_cell(row, column)) for row in table.rows[:200]))


def _cell(row: Row, column: str) -> str:
    """A cell's text for guessing; unusable cells are told later, with their row."""
    try:
        return as_texts(row.values.get(column))[0]
    except DataError:
        return ""


def _yes_no(names: Sequence[str]) -> tuple[str, str] | None:
    if len(names) != 2:
        return None
    folded = {name.casefold(): name for name in names}
    return next(((folded[n], folded[p]) for n, p in YES_NO if n in folded and p in folded), None)


def _is_number(name: str) -> bool:
    try:
        return as_text(float(name)) != ""
    except ValueError:
        return False


def _plain(column: str) -> str:
    """A column name as it may stand in a template."""
    name = " ".join(column.replace("{", "(").replace("}", ")").replace("_", " ").split())
    return name[:1].upper() + name[1:]
