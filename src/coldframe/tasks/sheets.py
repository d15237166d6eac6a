"""Parquet files and Excel sheets."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

from coldframe.errors import DataError, MissingExtraError, first_line
from coldframe.tasks.memory import plain_cell
from coldframe.tasks.table import MAX_BYTES, Row, checked_column, checked_count

MAX_EMPTY = 100_000
"""Most empty rows of a sheet that stand before one that is not empty."""

MAX_CELLS = 20_000_000
"""Most cells of a sheet, those counted that are empty and stand before one that is not."""


def read_parquet(data: bytes, name: str) -> tuple[list[str], list[Row]]:
    """Column names and rows of a Parquet file.

    Raises:
        DataError: It is none, its column names repeat, or it has too many rows.
        MissingExtraError: pyarrow is not installed (extra ``text``).
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "text", "Reading Parquet") from error
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        checked_count(file.metadata.num_rows, name)
        table = file.read()
        columns = [str(column) for column in table.column_names]
        if len(set(columns)) < len(columns):
            raise DataError(f"{name}: column names repeat", got=", ".join(columns[:20]))
        values = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} is not a readable Parquet file ({error})") from error
    return columns, [Row(number, row) for number, row in enumerate(values, start=1)]


def read_excel(data: bytes, name: str) -> tuple[list[str], list[Row]]:
    """Column names and rows of the first sheet of an Excel file; rows are numbered as Excel numbers them.

    Raises:
        DataError: It is none, has no header, its column names repeat, or it is too large.
        MissingExtraError: openpyxl is not installed (extra ``excel``).
    """
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtraError("openpyxl", "excel", "Reading Excel files") from error
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise DataError(f"{name} is too large", got=f"{size:,} bytes unpacked", expected=f"at most {MAX_BYTES:,}")
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        lines = _lines(book.worksheets[0].values, name)
    except DataError:
        raise
    except Exception as error:  # the reader lets errors of several libraries through
        raise DataError(f"{name} is not a readable Excel file ({first_line(error)})") from error
    if not lines:
        raise DataError(f"{name} is empty", expected="a line of column names, then rows, in the first sheet")
    checked_count(len(lines), name)
    return _with_header(lines, name)


def _lines(rows: Iterable[Sequence[Any]], name: str) -> list[tuple[int, list[Any]]]:
    """The rows that hold anything, with their numbers, each up to its last cell.

    A file of a kilobyte may name a row or a column that stands billions of places away: the reader fills up what lies
    between, row by row.

    Raises:
        DataError: There are more empty rows than :data:`MAX_EMPTY`, or more cells than :data:`MAX_CELLS`.
    """
    lines: list[tuple[int, list[Any]]] = []
    count = 0
    for number, cells in enumerate(rows, start=1):
        if number - len(lines) > MAX_EMPTY:
            raise DataError(f"{name} has more than {MAX_EMPTY:,} empty rows", fix="Delete them, and what is below.")
        width = max((place for place, cell in enumerate(cells, start=1) if cell not in (None, "")), default=0)
        count += width
        if count > MAX_CELLS:
            raise DataError(f"{name} has too many cells", expected=f"at most {MAX_CELLS:,}")
        if width:
            lines.append((number, list(cells[:width])))
    return lines


def _with_header(lines: list[tuple[int, list[Any]]], name: str) -> tuple[list[str], list[Row]]:
    (line, header), *body = lines
    width = max(len(cells) for _, cells in lines)
    named = [str(cell).strip() if cell is not None else "" for cell in header]
    named += [""] * (width - len(named))
    columns = [checked_column(cell or f"column {place}") for place, cell in enumerate(named, start=1)]
    if len(set(columns)) < len(columns):
        raise DataError(f"{name}, line {line}: column names repeat", got=", ".join(columns[:20]))
    rows = []
    for place, (number, cells) in enumerate(body, start=1):
        padded = [*cells, *[None] * (width - len(cells))]
        values = {column: plain_cell(cell) for column, cell in zip(columns, padded, strict=False)}
        rows.append(Row(number, values, place=place))
    return columns, rows
