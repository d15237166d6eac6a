"""Rows to examples: checked, canonical, each with its identity; and what to do with repeated ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from coldframe.errors import DataError
from coldframe.tasks.cells import as_text, as_texts
from coldframe.tasks.molecules import canonical_smiles, molecule_key
from coldframe.tasks.rows import Problems, Row, Table
from coldframe.tasks.task import Domain, Example, Kind, content_hash


class ExampleReader:
    """Makes examples of one task's rows; the unusable ones go to ``problems``.

    Args:
        domain: Molecules are canonicalised.
        kind: A classification target is a single label; in a generation task a list gives several answers.
        raw_smiles: Keep the spelling of molecules.

    Attributes:
        written: The input as its source spelled it, by example id.
    """

    def __init__(self, domain: Domain, kind: Kind, raw_smiles: bool = False) -> None:
        self.domain, self.kind, self.raw_smiles = domain, kind, raw_smiles
        self.written: dict[str, str] = {}

    def read(
        self, table: Table, texts: Sequence[str], label: str, prefix: str, problems: Problems
    ) -> list[tuple[Example, str]]:
        """Examples, each with the part its row names.

        Args:
            table: Rows as read.
            texts: Input columns; several become ``name: value`` lines.
            label: Target column.
            prefix: Of the ids, which end in the row number with leading zeros, so that they sort by row.
            problems: Raises, or counts what is skipped.
        """
        found = []
        for row in table.rows:
            try:
                found.append((self._example(row, texts, label, prefix), row.part))
            except DataError as error:
                where = f"{table.name}, row {row.number}: {error.problem}"
                problems.add(DataError(where, got=error.got, expected=error.expected, fix=error.fix))
        return found

    def _example(self, row: Row, texts: Sequence[str], label: str, prefix: str) -> Example:
        cells = {column: as_text(row.values.get(column)) for column in texts}
        if not any(cells.values()):
            raise DataError(f"the text is empty (column {texts[0]!r})")
        text = "\n".join(f"{c}: {v}" for c, v in cells.items()) if len(texts) > 1 else cells[texts[0]]
        value = row.values.get(label)
        targets = (as_text(value),) if self.kind == "classification" else as_texts(value)
        if not targets[0]:
            raise DataError(f"the label is empty (column {label!r})")
        identity = f"{prefix}-{row.part}-{row.number:07d}" if row.part else f"{prefix}-{row.number:07d}"
        self.written[identity] = text
        if self.domain == "molecules":
            key = molecule_key(text)
            text = text if self.raw_smiles else canonical_smiles(text)
        else:
            key = content_hash(" ".join(text.casefold().split()))
        return Example(text, targets[0], identity, key, row.number, targets[1:])


def deduplicate(examples: Sequence[Example], written: Mapping[str, str]) -> tuple[list[Example], list[str]]:
    """One example for each key: the shortest as written, then the first; none if its labels differ.

    Args:
        examples: In file order, which is kept.
        written: The text as the source spelled it, by example id.

    Returns:
        What is kept, and notes that count what is not.
    """
    groups: defaultdict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.key].append(example)
    agreeing = [group for group in groups.values() if len({e.target for e in group}) == 1]
    kept = {min(group, key=lambda e: len(written[e.id])).id for group in agreeing}
    notes = []
    if repeats := sum(len(group) - 1 for group in agreeing):
        notes.append(f"Dropped {repeats} row(s) that are the same text, or molecule without stereo, as another.")
    if clashes := len(groups) - len(agreeing):
        notes.append(f"Dropped {clashes} input(s) that occur with different labels.")
    return [example for example in examples if example.id in kept], notes


def check_duplicates(examples: Sequence[Example], problems: Problems | None) -> tuple[list[Example], list[str]]:
    """Equal inputs with different labels are a problem; all other repeats are noted.

    Args:
        examples: Of one part.
        problems: Gets the conflicts, whose rows are then left out; None keeps and notes them.

    Returns:
        The examples without those in conflict, and notes.
    """
    by_text: defaultdict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_text[example.text].append(example)
    clashing = set()
    for text, group in by_text.items():
        if problems is not None and len({example.target for example in group}) > 1:
            rows = ", ".join(f"{e.row} ({e.target})" for e in group[:6])
            clashing.add(text)
            problems.add(
                DataError(
                    f"The same input has different labels: rows {rows}",
                    got=repr(text[:60]),
                    fix="Mend them, or pass on_error='skip' to drop them all.",
                )
            )
    kept = [example for example in examples if example.text not in clashing]
    notes = []
    targets: defaultdict[str, set[str]] = defaultdict(set)
    for example in kept:
        targets[example.key].add(example.target)
    if repeats := len(kept) - len(targets):
        notes.append(f"{repeats} row(s) repeat another row's input; no split parts them.")
    if clashes := sum(len(found) > 1 for found in targets.values()):
        notes.append(f"{clashes} input(s) occur with different labels (stereo and spelling disregarded); kept.")
    return kept, notes


def class_balance(examples: Sequence[Example]) -> dict[str, int]:
    """How often each label occurs, the most frequent first.

    >>> rows = [Example("a", "No", "1", "a"), Example("b", "Yes", "2", "b"), Example("c", "No", "3", "c")]
    >>> class_balance(rows)
    {'No': 2, 'Yes': 1}
    """
    return dict(sorted(Counter(e.target for e in examples).items(), key=lambda item: (-item[1], item[0])))
