"""Rows that are in memory: lists of mappings, data frames, data sets of the `datasets` library, Arrow tables.

No library is imported for any of them: what an object can do says what it is.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from coldframe.errors import DataError
from coldframe.tasks.table import PARTS, Row, Table, checked_column, checked_count

MEMORY = "rows in memory"
"""What options call data that has no name to load it by."""

_KINDS = "a list of mappings, a data frame, or a data set with train and test"


def table_in_memory(data: object, name: str = "rows") -> Table:
    """Rows that are in memory as a table.

    Args:
        data: An iterable of mappings from column names to cells; a data frame (pandas, polars); a ``datasets.Dataset``
            or an Arrow table; or a mapping of split names to such data, as a ``datasets.DatasetDict`` is.
        name: For messages.

    Raises:
        DataError: It is none of these, has no rows, or a row is no mapping; names the row.

    Example:
        >>> table_in_memory([{"text": "fine", "label": 1}]).rows[0]
        Row(number=1, values={'text': 'fine', 'label': 1}, part='')
    """
    rows: list[Row] = []
    for part, records in _parts(data).items():
        rows += [Row(number, record, part) for number, record in enumerate(_records(records, name), start=1)]
    checked_count(len(rows), name)
    if not rows:
        raise DataError(f"{name}: there are no rows", expected=_KINDS)
    columns = dict.fromkeys(column for row in rows for column in row.values)
    content = json.dumps([[row.part, row.values] for row in rows], default=repr).encode()
    return Table(name, tuple(columns), tuple(rows), {"file": MEMORY, "sha256": hashlib.sha256(content).hexdigest()})


def plain_cell(value: Any) -> Any:
    """A cell as JSON has it: missing values of any library are None, dates are text, arrays are lists.

    >>> plain_cell(datetime.date(2026, 1, 31)), plain_cell(decimal.Decimal("1.50")), plain_cell((1, None))
    ('2026-01-31', '1.50', [1, None])
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain_cell(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_cell(item) for item in value]
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy
        return plain_cell(value.tolist())
    return value


def _parts(data: object) -> dict[str, object]:
    """The data by the part it is; one part without a name, unless it is a mapping of splits."""
    if not isinstance(data, Mapping):
        return {"": data}
    unknown = [str(name) for name in data if str(name).casefold() not in PARTS]
    if unknown or any(isinstance(value, str) for value in data.values()):
        shown = ", ".join(map(str, list(data)[:8]))
        raise DataError("A mapping is read as splits", got=f"the keys {shown}", expected=_KINDS)
    parts = {PARTS[str(name).casefold()]: value for name, value in data.items()}
    return parts if {"train", "test"} <= set(parts) else {"": next(iter(parts.values()))}


def _records(data: Any, name: str) -> Iterable[dict[str, Any]]:
    """The rows as mappings of plain cells."""
    if isinstance(data, str | bytes) or not (hasattr(data, "__iter__") or hasattr(data, "to_pylist")):
        raise DataError(f"{name}: this holds no rows", got=type(data).__name__, expected=_KINDS)
    label_names = _label_names(data)
    for number, record in enumerate(_mappings(data), start=1):
        if not isinstance(record, Mapping):
            got = type(record).__name__
            raise DataError(f"{name}, row {number}: not a mapping of columns to cells", got=got, expected=_KINDS)
        cells = {checked_column(str(column)): plain_cell(cell) for column, cell in record.items()}
        for column, names in label_names.items():
            if type(place := cells.get(column)) is int:  # -1 where a data set keeps its labels to itself
                cells[column] = names[place] if 0 <= place < len(names) else None
        yield cells


def _mappings(data: Any) -> Iterable[Any]:
    """What gives a row at a time: frames and tables iterate over their columns otherwise."""
    if hasattr(data, "to_pylist"):  # Arrow
        return data.to_pylist()  # type: ignore[no-any-return]
    if hasattr(data, "to_dicts"):  # polars
        return data.to_dicts()  # type: ignore[no-any-return]
    if hasattr(data, "iloc") and hasattr(data, "to_dict"):  # pandas
        if not hasattr(data, "columns"):
            raise DataError("A column is no table", got=type(data).__name__, expected=_KINDS)
        columns = [str(column) for column in data.columns]
        if len(set(columns)) < len(columns):
            raise DataError("Column names repeat", got=", ".join(columns[:20]))
        return data.to_dict("records")  # type: ignore[no-any-return]
    return (dataclasses.asdict(r) if dataclasses.is_dataclass(r) and not isinstance(r, type) else r for r in data)


def _label_names(data: Any) -> dict[str, list[str]]:
    """The names of the classes, by column, where a data set numbers them (``ClassLabel``)."""
    features = getattr(data, "features", None)
    if not isinstance(features, Mapping):
        return {}
    named = {str(column): getattr(feature, "names", None) for column, feature in features.items()}
    return {column: [str(name) for name in names] for column, names in named.items() if isinstance(names, list)}
