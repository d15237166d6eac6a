"""A cell of a table as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coldframe.errors import DataError
from coldframe.tasks.table import warning

MISSING_WORDS = ("na", "n/a", "#n/a", "<na>", "nat", "null", "nil", "none")
"""Words that some programs write for a missing value, and people mean as words: they are text, and counted."""


def as_text(value: object) -> str:
    """A cell as text: whole floats lose their ``.0``.

    Missing is an empty cell, a null, the number NaN and the word "nan", whatever its case, which is how programs write
    that number. Every other word is text. The rule is the same for files, standard input and rows in memory.

    Raises:
        DataError: If it is neither text nor a number nor a truth value, or text that UTF-8 cannot hold.

    >>> as_text(1.0), as_text(True), as_text(float("nan")), as_text(" a ")
    ('1', 'true', '', 'a')
    """
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if not isinstance(value, (str, int, float)):
        raise DataError("A cell holds no text", got=type(value).__name__, expected="text or a number")
    text = str(value).strip()
    if text.casefold() == "nan":
        return ""
    check_unicode(text, "A cell")
    return text


def check_unicode(text: str, what: str) -> None:
    """Raise a DataError where a text holds half a surrogate pair, which no file, hash or tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} holds half a surrogate pair", got=ascii(text[:40])) from error


def missing_words(cells: Mapping[str, Iterable[object]]) -> list[str]:
    """Notes that count the words that may stand for a missing value.

    Args:
        cells: Of the columns that are read.

    Example:
        >>> missing_words({"label": ["good", "NA", None, "NA", "null"]})
        ["WARNING: Column 'label' has words that may mean a missing value, and are read as text: 'NA' (2), 'null' (1)."]
    """
    notes = []
    for column, values in cells.items():
        words = [value.strip() for value in values if isinstance(value, str)]
        counts = Counter(word for word in words if word.casefold() in MISSING_WORDS)
        if counts:
            shown = ", ".join(f"{word!r} ({count})" for word, count in sorted(counts.items()))
            says = "has words that may mean a missing value, and are read as text"
            notes.append(warning(f"Column {column!r} {says}: {shown}."))
    return notes


def as_texts(value: object) -> tuple[str, ...]:
    """A cell that may hold several accepted answers (a JSON list), the first of them the target.

    >>> as_texts(["1972", "December 1972"]), as_texts("yes")
    (('1972', 'December 1972'), ('yes',))
    """
    cells: Sequence[object] = value if isinstance(value, list) else [value]
    return tuple(text for text in map(as_text, cells) if text) or ("",)


def text_in(values: Mapping[str, Any], column: str | None) -> str:
    """The cell of a column as text; empty if there is none.

    Raises:
        DataError: It holds no text; names the column.

    >>> text_in({"id": 7}, "id"), text_in({"id": 7}, None)
    ('7', '')
    """
    try:
        return as_text(values.get(column)) if column is not None else ""
    except DataError as error:
        raise _in_column(error, column) from error


def texts_in(values: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """The cell of a column that may hold several texts, as :func:`as_texts` reads it.

    Raises:
        DataError: It holds something else; names the column.
    """
    try:
        return as_texts(values.get(column))
    except DataError as error:
        raise _in_column(error, column) from error


def _in_column(error: DataError, column: str | None) -> DataError:
    return DataError(f"{error.problem} (column {column!r})", got=error.got, expected=error.expected)
