"""Rows of a table, each with its number, and what becomes of those that cannot be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from coldframe.errors import DataError

OnError = Literal["raise", "skip"]

MAX_BYTES = 1 << 30
"""Largest file read, in bytes, unpacked: tasks are held in memory."""

MAX_ROWS = 5_000_000
"""Most rows read."""

MAX_NAME = 1_000
"""Longest column name, in characters."""

PARTS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip
"""What a split may be called, and which part of a task it is."""

WRONG = ("WARNING: ", "LEAK: ", "Skipped ")
"""How a task's notes begin that say that something looks wrong."""


def warning(sentence: str) -> str:
    """A note that says that something looks wrong."""
    return WRONG[0] + sentence


def looks_wrong(note: str) -> bool:
    """Whether a note says so.

    >>> looks_wrong(warning("All is one.")), looks_wrong("Took column 'a' as the label.")
    (True, False)
    """
    return note.startswith(WRONG)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read.

    Attributes:
        number: 1-based line where the row begins in its file (the header of a CSV is line 1); for a JSON
            array, Parquet and rows in memory the 1-based position.
        values: Column name to value; text for CSV and TSV.
        part: The file's own split, where it names one; else empty.
        place: 1-based position among all rows, unusable ones included; 0 where it is the number.
    """

    number: int
    values: Mapping[str, Any]
    part: str = ""
    place: int = dataclasses.field(default=0, repr=False, compare=False)


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
        self.remarks: list[str] = []

    def add(self, error: DataError) -> None:
        """Raise the error, or count it."""
        if self.on_error == "raise":
            raise error
        self.skipped.append(error)

    def remark(self, note: str) -> None:
        """Say something about the table that is no reason to leave a row out."""
        self.remarks.append(note)

    def notes(self) -> list[str]:
        """What was remarked, and one line that says how many rows were skipped, and why the first one was."""
        if not self.skipped:
            return [*self.remarks]
        return [*self.remarks, f"Skipped {len(self.skipped)} unusable row(s); the first: {self.skipped[0].problem}"]


def located(table: Table, row: Row, error: DataError) -> DataError:
    """The same error, with the row that it is about."""
    where = f"{table.name}, row {row.number}: {error.problem}"
    return DataError(where, got=error.got, expected=error.expected, fix=error.fix)


def checked_column(name: str) -> str:
    """A column name that can be written again.

    Raises:
        DataError: It is too long, or no text.
    """
    if len(name) > MAX_NAME or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise DataError("a column name is too long or not text", got=ascii(name[:40]))
    return name


def checked_count(count: int, name: str) -> None:
    """Refuse a table with too many rows.

    Raises:
        DataError: There are more than ``MAX_ROWS``.
    """
    if count > MAX_ROWS:
        raise DataError(f"{name} has too many rows", expected=f"at most {MAX_ROWS:,}")
