"""JSON lines, and JSON arrays of rows."""

from __future__ import annotations

import json
from typing import Any

from coldframe.errors import DataError
from coldframe.tasks.table import Problems, Row, checked_column, checked_count

_MALFORMED = object()
"""Stands for a line that cannot be read: it counts as a row."""


def read_lines(text: str, name: str, problems: Problems) -> tuple[list[str], list[Row]]:
    """Column names and rows of JSON lines; of an array, if the text is one.

    Args:
        text: The file's.
        name: For messages.
        problems: Gets lines that are no JSON objects.

    Raises:
        DataError: There are too many rows.
    """
    if text.lstrip()[:1] == "[" and isinstance(array := _decoded(text), list) and any(map(_is_row, array)):
        problems.remark(f"{name} is one JSON array, not a row on each line.")
        return _rows([(place, item) for place, item in enumerate(array, start=1)], name, "row", problems)
    items: list[tuple[int, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        checked_count(len(items) + 1, name)
        try:
            items.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            problems.add(DataError(f"{name}, line {number}: malformed JSON ({error})"))
            items.append((number, _MALFORMED))
    return _rows(items, name, "line", problems)


def read_array(text: str, name: str, problems: Problems) -> tuple[list[str], list[Row]]:
    """Column names and rows of a JSON array of objects; of JSON lines, if the text holds those.

    Raises:
        DataError: It is neither.

    Example:
        >>> read_array('[{"text": "a", "label": 1}]', "a.json", Problems())[1]
        [Row(number=1, values={'text': 'a', 'label': 1}, part='')]
    """
    try:
        array = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and all(_is_row(_decoded(line)) for line in lines[:2]):
            problems.remark(f"{name} holds a JSON object on each line, and is read so.")
            return read_lines(text, name, problems)
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{name}{where}: malformed JSON ({error})") from error
    if isinstance(array, dict) and all(not isinstance(value, dict | list) for value in array.values()):
        array = [array]  # JSON lines with one line
    if not isinstance(array, list):
        got = f"an object with {', '.join(map(repr, list(array)[:8]))}" if isinstance(array, dict) else repr(array)[:60]
        fix = "Write the list of rows to a file of its own."
        raise DataError(f"{name} is no list of rows", got=got, expected='[{"text": ..., "label": ...}, ...]', fix=fix)
    return _rows([(place, item) for place, item in enumerate(array, start=1)], name, "row", problems)


def _rows(items: list[tuple[int, Any]], name: str, unit: str, problems: Problems) -> tuple[list[str], list[Row]]:
    columns: dict[str, None] = {}
    rows: list[Row] = []
    checked_count(len(items), name)
    for place, (number, values) in enumerate(items, start=1):
        if values is _MALFORMED:
            continue
        if not _is_row(values):
            problems.add(DataError(f"{name}, {unit} {number}: not a JSON object", got=type(values).__name__))
            continue
        try:
            columns.update(dict.fromkeys(map(checked_column, values)))
        except DataError as error:
            problems.add(DataError(f"{name}, {unit} {number}: {error.problem}", got=error.got))
            continue
        rows.append(Row(number, values, place=place))
    return list(columns), rows


def _is_row(item: object) -> bool:
    return isinstance(item, dict)


def _decoded(text: str) -> Any:
    """What a text says in JSON; None if it says nothing."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
