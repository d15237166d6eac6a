"""CSV and TSV: which separator there is, what quotes mean, and where they may mean something else."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import threading
from collections.abc import Iterator

from coldframe.errors import DataError
from coldframe.tasks.table import MAX_BYTES, Problems, Row, checked_column, checked_count, warning

SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a vertical bar"}

Records = list[tuple[int, list[str]]]
"""Fields, each record with the line on which it begins."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_LIMIT = threading.Lock()


def read_separated(text: str, usual: str, name: str, problems: Problems) -> tuple[list[str], list[Row]]:
    r"""Column names and rows of a text.

    Args:
        text: The file's.
        usual: The separator that its ending promises.
        name: For messages.
        problems: Gets the rows with too many or too few fields, and what is to be said about separators and quotes.

    Raises:
        DataError: There is no header, its names repeat, or a quote never closes.

    Example:
        >>> problems = Problems()
        >>> read_separated("text;label\na, b;x\n", ",", "a.csv", problems)[1][0].values
        {'text': 'a, b', 'label': 'x'}
        >>> problems.remarks
        ["The fields of a.csv are separated by a semicolon (';')."]
    """
    separator = _separator(text, usual, name, problems)
    records = (_tabbed if separator == "\t" else _quoted)(text, separator, name, problems)
    if not records:
        raise DataError(f"{name} is empty", expected="a line of column names, then rows")
    line, header = records.pop(0)
    columns = [_header(column, place, f"{name}, line {line}") for place, column in enumerate(header, start=1)]
    if repeated := sorted({c for c in columns if columns.count(c) > 1}):
        raise DataError(f"{name}, line {line}: column names repeat", got=", ".join(repeated))
    rows = []
    for place, (number, values) in enumerate(records, start=1):
        if len(values) == len(columns):
            rows.append(Row(number, dict(zip(columns, values, strict=True)), place=place))
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


def _header(cell: str, place: int, where: str) -> str:
    try:
        return checked_column(cell.strip() or f"column {place}")
    except DataError as error:
        raise DataError(f"{where}: {error.problem}", got=error.got) from error


def _separator(text: str, usual: str, name: str, problems: Problems) -> str:
    """The usual separator, unless the header has none and another cuts the first lines into equally many fields."""
    lines = [line for line in text[:100_000].splitlines()[:50] if line.strip()]
    if not lines or usual in lines[0]:
        return usual
    for separator, what in SEPARATORS.items():
        widths = {line.count(separator) for line in lines[:-1] or lines}
        if len(widths) == 1 and min(widths) > 0:
            shown = "" if separator == "\t" else f" ({separator!r})"
            problems.remark(f"The fields of {name} are separated by {what}{shown}.")
            return separator
    return usual


def _tabbed(text: str, separator: str, name: str, problems: Problems) -> Records:
    """Records of TSV, where quotes are mostly text.

    A quote that opens a field and does not close it is text. A field is unquoted if quotes stand around the whole of
    it. Quotes go over tabs and lines only where the header is quoted, or where the lines make no table otherwise.
    """
    plain = text.replace("\r\n", "\n")
    lines = plain.split("\n" if "\n" in plain else "\r")
    records = [(number, line.split("\t")) for number, line in enumerate(lines, start=1) if line]
    checked_count(len(records), name)
    if not records:
        return []
    width = len(records[0][1])
    if all(map(_QUOTED.fullmatch, records[0][1])):
        return _quoted(text, separator, name, problems)
    if '"' in text and any(len(fields) != width for _, fields in records):
        with contextlib.suppress(DataError):
            spanning = _quoted(text, separator, name, Problems())
            if all(len(fields) == width for _, fields in spanning):
                return spanning
    cut = [n for n, fields in records for field in fields if field[:1] == '"' and not _QUOTED.fullmatch(field)]
    if cut:
        problems.remark(
            warning(
                f"{name}: {len(cut)} field(s) begin with a quote that does not close there (the first in line "
                f"{cut[0]}). The quotes are read as text."
            )
        )
    return [(number, list(map(_unquoted, fields))) for number, fields in records]


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if _QUOTED.fullmatch(field) else field


def _quoted(text: str, separator: str, name: str, problems: Problems) -> Records:
    """Non-empty records, in which a quoted field may hold separators and line breaks."""
    lines: list[str] = []
    records: Records = []
    width, swallowed = 0, []
    with _long_fields():
        reader = csv.reader(_told(io.StringIO(text, newline=""), lines), delimiter=separator, strict=True)
        while True:
            start = reader.line_num + 1
            lines.clear()
            try:
                values = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                raise DataError(f"{name}, line {start}: malformed ({error})", fix="Check the quotes.") from error
            if not values:
                continue
            width = width or len(values)
            if len(lines) > 1 < width and all(line.count(separator) == width - 1 for line in lines):
                swallowed.append((start, reader.line_num))
            records.append((start, values))
            checked_count(len(records), name)
    if swallowed:
        first, last = swallowed[0]
        where = f"a quote opens in line {first} and closes in line {last} ({len(swallowed)} such place(s))"
        says = "these lines are read as one row, though each looks like a row of its own"
        problems.remark(warning(f"{name}: {where}; {says}. Double the quotes that are text."))
    return records


def _told(lines: Iterator[str], seen: list[str]) -> Iterator[str]:
    """The lines, of which the last ones stay in a list."""
    for line in lines:
        seen.append(line)
        yield line


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Let a field be as long as a file. The csv module has one limit for the whole process, which is given back."""
    with _LIMIT:
        limit = csv.field_size_limit(MAX_BYTES)
        try:
            yield
        finally:
            csv.field_size_limit(limit)
