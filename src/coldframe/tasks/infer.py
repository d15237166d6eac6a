"""What the user did not say, read off the data; every guess is returned with the sentence that admits it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from coldframe.errors import ConfigError, DataError, nearest
from coldframe.tasks.cells import as_text
from coldframe.tasks.columns import SPLIT_NAMES, cell_text, plain, whole_template
from coldframe.tasks.labels import known_label
from coldframe.tasks.molecules import first_word, is_molecule
from coldframe.tasks.options import TaskConfig
from coldframe.tasks.prompts import one_of
from coldframe.tasks.table import PARTS, Problems, Table, warning
from coldframe.tasks.task import Domain, Kind, Template

YES_NO = (
    ("0", "1"), ("false", "true"), ("no", "yes"), ("inactive", "active"), ("negative", "positive"),
    ("n", "y"), ("f", "t"), ("-1", "1"), ("-", "+"), ("non-toxic", "toxic"), ("nontoxic", "toxic"),
)  # fmt: skip
"""Pairs of labels (negative, positive) that answer a yes-or-no question."""

FEW_LABELS, MAX_LABELS = 200, 1_000
"""Most distinct targets that are labels: where each comes twice on average, and where each comes three times."""

MEASURED = 20
"""More different numbers with decimals than this are taken for measurements."""


def domain(config: TaskConfig, table: Table, texts: Sequence[str]) -> tuple[Domain, list[str]]:
    """Molecules if the column's name says so, unless most of its first 200 cells are no SMILES."""
    if config.domain != "auto":
        return config.domain, []
    name = texts[0].casefold()
    if len(texts) > 1 or not ("smiles" in name or name in ("mol", "molecule", "structure", "compound")):
        return "text", []
    cells = [first_word(cell) for row in table.rows[:200] if (cell := cell_text(row, texts[0]))]
    if not cells or 2 * sum(map(is_molecule, cells)) < len(cells):
        note = f"Column {texts[0]!r} is named like molecules, but is read as text: few cells are SMILES."
        return "text", [warning(note)]
    return "molecules", [f"Took column {texts[0]!r} as molecules (SMILES)."]


def kind(config: TaskConfig, table: Table, label: str) -> tuple[Kind, list[str]]:
    """Classification if targets repeat; generation if nearly each row has its own, or several.

    Raises:
        DataError: The targets are measurements, which nothing here predicts.
    """
    if config.kind != "auto":
        return config.kind, []
    if config.positive is not None or config.words is not None:
        return "classification", []
    cells = [row.values.get(label) for row in table.rows]
    targets = {text for row in table.rows if (text := cell_text(row, label))}
    count, rows = len(targets), len(cells)
    if any(isinstance(cell, list) for cell in cells):
        return "generation", [f"Took {label!r} as free text to generate (lists of accepted answers)."]
    repeats = 2 * count <= rows if count > 2 else count < rows
    if _are_measurements(targets) and (count > MEASURED or not repeats):
        raise DataError(
            f"Column {label!r} looks like numbers to predict, and there is no regression here",
            got=f"{count} different numbers, such as {', '.join(sorted(targets)[:3])}",
            fix="Cut them into classes, name another label, or pass kind='generation' to have them written.",
        )
    if not repeats or count > MAX_LABELS or (count > FEW_LABELS and 3 * count > rows):
        return "generation", [f"Took {label!r} as free text to generate ({count} different values)."]
    return "classification", [f"Took {label!r} as {count} classes."]


def parts(config: TaskConfig, table: Table, used: Sequence[str], problems: Problems) -> tuple[Table, list[str]]:
    """The table with each row's part read from a split column, where there is one to go by.

    A column named ``split`` (or partition, fold, subset) counts if both train and test occur in it.
    """
    named = next((c for c in table.columns if c.casefold() in SPLIT_NAMES and c not in used), None)
    if named is None or config.split not in ("auto", "given") or config.test is not None:
        return table, []
    listed = [PARTS.get(cell_text(row, named).casefold()) for row in table.rows]
    if not {"train", "test"} <= set(listed):
        return table, []
    rows = []
    for row, part in zip(table.rows, listed, strict=True):
        if part is None:
            where = f"{table.name}, row {row.number}: unknown split"
            problems.add(DataError(where, got=repr(cell_text(row, named)), expected="train, validation or test"))
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
    if positive is not None:  # as labels are compared everywhere
        positive = known_label(positive, names, config.merge_labels) or positive
    pair = _yes_no(names)
    if positive is None and pair is not None:
        positive = pair[1]
        notes.append(f"Took {positive!r} as the positive label.")
    if len(names) == 2 and positive in names:
        names.sort(key=lambda name: name == positive)
    words = dict(zip(names, ("No", "Yes") if pair is not None else names, strict=True))
    for name, word in (config.words or {}).items():
        label = known_label(name, names, config.merge_labels) or name
        if label not in words:
            raise ConfigError(f"words names a label that no row has: {label!r}", fix=nearest(label, words))
        words[label] = word.strip()
    if not all(words.values()):
        raise ConfigError("Every label needs a word that is not empty", got=words)
    return tuple(names), tuple(words.values()), positive, notes


def template(config: TaskConfig, text: str, label: str, kind: Kind, words: Sequence[str]) -> Template:
    """The user's template, or one made of the column names and the answer words."""
    answer = {"answers": "answer", "labels": "label"}.get(label.casefold(), label)
    body = f"{plain(text)}: {{text}}\n{plain(answer)}:"
    if config.template is not None:
        body = whole_template(config.template, label)
    instruction = config.instruction
    if instruction is None:
        few = kind == "classification" and len(words) <= 20
        instruction = one_of(words) if few else ""
    return Template(body, instruction, end=config.end)


def _yes_no(names: Sequence[str]) -> tuple[str, str] | None:
    if len(names) != 2:
        return None
    folded = {name.casefold(): name for name in names}
    return next(((folded[n], folded[p]) for n, p in YES_NO if n in folded and p in folded), None)


def _are_measurements(targets: Collection[str]) -> bool:
    """Whether all targets are numbers, most of them with decimals."""
    if not targets or not all(map(_is_number, targets)):
        return False
    return 2 * sum(not float(target).is_integer() for target in targets) > len(targets)


def _is_number(name: str) -> bool:
    try:
        return as_text(float(name)) != ""
    except ValueError:
        return False
