"""Rows of a file, each with its line number; nothing unreadable is passed on in silence."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from coldframe.errors import DataError, MissingExtraError

OnError = Literal["raise", "skip"]

MAX_BYTES = 1 << 30
"""Largest file read, in bytes: tasks are held in memory."""

MAX_ROWS = 5_000_000
"""Most rows read."""

MAX_NAME = 1_000
"""Longest column name, in characters."""

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read.

    Attributes:
        number: 1-based line where the row begins in its file (the header of a CSV is line 1); for Parquet the
            1-based position.
        values: Column name to value; text for CSV and TSV.
        part: The file's own split, where it names one; else empty.
    """

    number: int
    values: Mapping[str, Any]
    part: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows with their columns, and where the bytes came from."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def require(self, column: str) -> str:
        """The column's name if there is one; else an error that names the ones there are."""
        if column not in self.columns:
            raise DataError(f"{self.name} has no column {column!r}", expected=f"one of {', '.join(self.columns)}")
        return column


class Problems:
    """What to do with a row that cannot be used: raise at once, or skip and count.

    Args:
        on_error: ``"raise"`` or ``"skip"``.
    """

    def __init__(self, on_error: OnError = "raise") -> None:
        self.on_error = on_error
        self.skipped: list[DataError] = []

    def add(self, error: DataError) -> None:
        """Raise the error, or count it."""
        if self.on_error == "raise":
            raise error
        self.skipped.append(error)

    def notes(self) -> list[str]:
        """One line that says how many rows were skipped, and why the first one was."""
        if not self.skipped:
            return []
        return [f"Skipped {len(self.skipped)} unusable row(s); the first: {self.skipped[0].problem}"]


def located(table: Table, row: Row, error: DataError) -> DataError:
    """The same error, with the row that it is about."""
    where = f"{table.name}, row {row.number}: {error.problem}"
    return DataError(where, got=error.got, expected=error.expected, fix=error.fix)


def read_table(path: str | Path, problems: Problems) -> Table:
    r"""Read CSV, TSV, JSONL or Parquet, by the file's ending.

    Args:
        path: The file; text must be UTF-8 (a byte-order mark is tolerated).
        problems: Gets the rows that cannot be read.

    Raises:
        DataError: If the file is absent, too large, empty, not UTF-8 (with the line), or not of the format
            its ending names. These are raised even where problems are skipped.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.csv"
        ...     _ = path.write_text("smiles,label\nCCO,1\n")
        ...     read_table(path, Problems()).rows[0]
        Row(number=2, values={'smiles': 'CCO', 'label': '1'}, part='')
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path.name} is of no known kind", got=suffix or "no ending", expected=", ".join(SUFFIXES))
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path} is too large", got=f"{size:,} bytes", expected=f"at most {MAX_BYTES:,}")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path} ({error.strerror})", fix="Check the path.") from error
    columns, rows = parse(data, suffix, path.name, problems)
    if not rows:
        raise DataError(f"{path.name} has no usable rows", fix="Check that it is the right file.")
    source = {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    return Table(path.name, tuple(columns), tuple(rows), source)


def parse(data: bytes, suffix: str, name: str, problems: Problems) -> tuple[list[str], list[Row]]:
    """Bytes to column names and rows; ``suffix`` is one of ``SUFFIXES``, ``name`` is for messages."""
    if suffix == ".parquet":
        columns, rows = _parquet(data, name)
    elif suffix in (".jsonl", ".ndjson"):
        columns, rows = _jsonl(_decode(data, name), name, problems)
    else:
        columns, rows = _separated(_decode(data, name), "\t" if suffix == ".tsv" else ",", name, problems)
    return columns, rows


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: not UTF-8", got=f"byte 0x{data[error.start]:02x}", fix="Save the file as UTF-8."
        ) from error


def _separated(text: str, delimiter: str, name: str, problems: Problems) -> tuple[list[str], list[Row]]:
    lines = _records(text, delimiter, name)
    header = next(lines, None)
    if header is None:
        raise DataError(f"{name} is empty", expected="a line of column names, then rows")
    columns = [column.strip() or f"column {i}" for i, column in enumerate(header[1], start=1)]
    if repeated := sorted({c for c in columns if columns.count(c) > 1}):
        raise DataError(f"{name}, line {header[0]}: column names repeat", got=", ".join(repeated))
    rows = []
    for number, values in lines:
        if len(values) == len(columns):
            rows.append(Row(number, dict(zip(columns, values, strict=True))))
        else:
            problems.add(
                DataError(
                    f"{name}, line {number}: wrong number of fields",
                    got=len(values),
                    expected=f"{len(columns)} ({', '.join(columns[:8])})",
                    fix="Quote fields that hold the separator.",
                )
            )
    return columns, rows


def _records(text: str, delimiter: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Non-empty records with the line each begins on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    count = 0
    while True:
        start = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{name}, line {start}: malformed ({error})", fix="Check the quotes.") from error
        if values:
            count += 1
            if count > MAX_ROWS:
                raise DataError(f"{name} has too many rows", expected=f"at most {MAX_ROWS:,}")
            yield start, values


def _jsonl(text: str, name: str, problems: Problems) -> tuple[list[str], list[Row]]:
    columns: dict[str, None] = {}
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if len(rows) >= MAX_ROWS:
            raise DataError(f"{name} has too many rows", expected=f"at most {MAX_ROWS:,}")
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add(DataError(f"{name}, line {number}: malformed JSON ({error})"))
            continue
        if not isinstance(values, dict):
            problems.add(DataError(f"{name}, line {number}: not a JSON object", got=type(values).__name__))
            continue
        try:
            columns.update(dict.fromkeys(map(_column, values)))
        except DataError as error:
            problems.add(DataError(f"{name}, line {number}: {error.problem}", got=error.got))
            continue
        rows.append(Row(number, values))
    return list(columns), rows


def _parquet(data: bytes, name: str) -> tuple[list[str], list[Row]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "text", "Reading Parquet") from error
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        if file.metadata.num_rows > MAX_ROWS:
            raise DataError(f"{name} has too many rows", expected=f"at most {MAX_ROWS:,}")
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


def _column(name: str) -> str:
    """A column name that can be written again."""
    if len(name) > MAX_NAME or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise DataError("a column name is too long or not text", got=ascii(name[:40]))
    return name
