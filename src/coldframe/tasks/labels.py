"""Labels that are the same thing in other letters: numbers by value, spellings that fold to one."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from coldframe.tasks.table import warning

_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d{0,30})(?:\.\d{1,30})?", re.ASCII)
"""Numbers that are compared by value. With zeros before it, a number is a code."""

_JOINTS = (",", ";", "|", "/", "+", "&")


def by_value(label: str) -> str:
    """A number as it is spelled shortest; any other label as it is.

    >>> by_value("1.0"), by_value("-2.50"), by_value("+1"), by_value("007"), by_value("good")
    ('1', '-2.5', '1', '007', 'good')
    """
    if not _NUMBER.fullmatch(label):
        return label
    value = Decimal(label)
    plain = format(value, "f")
    if value == 0:
        return "0"
    return (plain.rstrip("0").rstrip(".") if "." in plain else plain).removeprefix("+")


def folded(label: str) -> str:
    """The same for labels that differ only in case, blanks, Unicode form or characters that do not show.

    >>> folded("Café") == folded("CAFE\u0301 "), folded("good\u200b") == folded("good")
    (True, True)
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split()) or label


def known_label(name: str, labels: Sequence[str], merge: bool = False) -> str | None:
    """Which of the labels is meant: the same text or number, or with ``merge`` one that folds to the same.

    >>> known_label("1.0", ["0", "1"]), known_label("TRUE", ["false", "true"]), known_label("TRUE", ["true"], True)
    ('1', None, 'true')
    """
    if name in labels:
        return name
    spellings = [by_value, folded] if merge else [by_value]
    return next((label for spell in spellings for label in labels if spell(label) == spell(name)), None)


def one_spelling(targets: Iterable[str], merge: bool) -> tuple[dict[str, str], list[str]]:
    """How labels are spelled, by what they were read as, and notes on those that are the same in other letters.

    Numbers are compared by value if all labels are numbers. Of labels that differ only in case, blanks or Unicode form
    the most frequent one is taken if ``merge``; else they are told.

    Args:
        targets: The label of every row.
        merge: Whether labels that fold to the same are one.

    Example:
        >>> one_spelling(["1", "1.0", "0"], False)
        ({'1': '1', '1.0': '1', '0': '0'}, ["Labels are numbers and compared by value: '1.0' is '1'."])
    """
    rows = Counter(targets)
    spelling = {label: label for label in rows}
    if all(_NUMBER.fullmatch(label) for label in rows):
        spelling = {label: by_value(label) for label in rows}
        changed = [f"{label!r} is {other!r}" for label, other in spelling.items() if label != other]
        notes = [f"Labels are numbers and compared by value: {_shown(changed)}."] if changed else []
        return spelling, notes
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for label in sorted(rows, key=lambda label: (-rows[label], label)):
        groups[folded(label)].append(label)
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        return spelling, []
    shown = _shown([", ".join(f"{ascii(label)} ({rows[label]:,})" for label in group) for group in alike], "; ")
    if merge:
        spelling |= {label: group[0] for group in alike for label in group}
        return spelling, [f"Merged labels that differ only in case, blanks or Unicode form: {shown}."]
    return spelling, [
        warning(
            f"Labels that differ only in case, blanks or Unicode form are classes of their own: {shown}. "
            "merge_labels=True (--merge-labels) makes one of them."
        )
    ]


def joined_labels(labels: Sequence[str]) -> list[str]:
    """A note on labels that join others, as a column that holds several labels has them."""
    known = {folded(label) for label in labels}
    joined = [
        label
        for label in labels
        for joint in _JOINTS
        if joint in label and all(folded(part) in known for part in label.split(joint))
    ]
    if not joined:
        return []
    shown = _shown(list(map(repr, dict.fromkeys(joined))))
    return [warning(f"Labels that join others are classes of their own: {shown}. A row has one label here.")]


def absent_classes(labels: Sequence[str], rows: Mapping[str, int], parts: Mapping[str, Sequence[str]]) -> list[str]:
    """Notes on classes that a part has no row of.

    Args:
        labels: All of them.
        rows: How many rows there are of each.
        parts: The labels of the rows to score, by the name of their part; a part without rows is none.
    """
    notes = []
    for part, targets in parts.items():
        absent = [label for label in labels if label not in set(targets)]
        if targets and absent:
            shown = _shown([f"{label!r} ({rows.get(label, 0)} row(s) in all)" for label in absent])
            notes.append(warning(f"{len(absent)} of {len(labels)} classes have no {part} row: {shown}."))
    return notes


def _shown(items: Sequence[str], between: str = ", ") -> str:
    return between.join(items[:6]) + (f"{between}..." if len(items) > 6 else "")
