"""Rows that are the same thing: which are kept, and what is said about the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from coldframe.errors import DataError
from coldframe.tasks.table import Problems, warning
from coldframe.tasks.task import Example


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
    first = {min(group, key=lambda e: len(written[e.id])).id for group in agreeing}
    notes = []
    if repeats := sum(len(group) - 1 for group in agreeing):
        notes.append(f"Dropped {repeats} row(s) that are the same text, or molecule without stereo, as another.")
    if clashes := len(groups) - len(agreeing):
        notes.append(f"Dropped {clashes} input(s) that occur with different labels.")
    return [example for example in examples if example.id in first], notes


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
    agreeing = [example for example in examples if example.text not in clashing]
    notes = []
    targets: defaultdict[str, set[str]] = defaultdict(set)
    for example in agreeing:
        targets[example.key].add(example.target)
    if repeats := len(agreeing) - len(targets):
        notes.append(warning(f"{repeats} row(s) repeat another row's input; no split parts them."))
    if clashes := sum(len(labels) > 1 for labels in targets.values()):
        notes.append(
            warning(f"{clashes} input(s) occur with different labels (stereo and spelling disregarded); kept.")
        )
    return agreeing, notes


def class_balance(examples: Sequence[Example]) -> dict[str, int]:
    """How often each label occurs, the most frequent first.

    >>> rows = [Example("a", "No", "1", "a"), Example("b", "Yes", "2", "b"), Example("c", "No", "3", "c")]
    >>> class_balance(rows)
    {'No': 2, 'Yes': 1}
    """
    return dict(sorted(Counter(e.target for e in examples).items(), key=lambda item: (-item[1], item[0])))
