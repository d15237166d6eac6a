"""A cell of a table as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coldframe.errors import DataError


def as_text(value: object) -> str:
    """A cell as text: whole floats lose their ``.0``, missing values and NaN become empty.

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
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError("A cell holds half a surrogate pair", got=ascii(text[:40])) from error
    return text


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
