"""A row that is longer than the context is named, or skipped and counted."""

from __future__ import annotations

import pytest

from coldframe.errors import DataError
from coldframe.tasks.long_rows import drop_long
from coldframe.tasks.table import Problems
from coldframe.tasks.task import Example, Schema, Task


def task(*lengths: int) -> Task:
    rows = [Example("x " * n, "y", f"r{i}", f"r{i}", row=i + 2) for i, n in enumerate(lengths)]
    return Task(Schema("t", "generation"), tuple(rows[:2]), tuple(rows[2:4]), tuple(rows[4:]))


def words(row: Example) -> int:
    return len(row.text.split())


def test_a_long_row_is_named() -> None:
    with pytest.raises(DataError, match=r"Row 5 \(r3, validation\) .* Got: 12 tokens. Expected: at most 10"):
        drop_long(task(1, 2, 3, 12, 5, 6), words, 10, Problems())


def test_long_rows_are_skipped_and_counted() -> None:
    problems = Problems("skip")
    problems.add(DataError("another row"))
    short = drop_long(task(1, 20, 3, 4, 5, 11), words, 10, problems)
    assert [len(part) for part in (short.train, short.validation, short.test)] == [1, 2, 1]
    assert short.notes == (
        "Skipped 2 unusable row(s); the first: Row 3 (r1, train) is longer than the model's context",
    )
    assert len(problems.skipped) == 3
    whole = task(1, 2, 3, 4, 5, 6)
    assert drop_long(whole, words, 10, problems) is whole


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(DataError, match="All test rows are longer"):
        drop_long(task(1, 1, 1, 1, 50), words, 10, Problems("skip"))
