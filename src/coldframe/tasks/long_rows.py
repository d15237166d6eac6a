"""Rows that are longer than a model's context: told with their number, or left out and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from coldframe.errors import DataError
from coldframe.tasks.table import Problems
from coldframe.tasks.task import Example, Task


def drop_long(task: Task, tokens_of: Callable[[Example], int], limit: int, problems: Problems) -> Task:
    """A task without the rows that a model cannot read.

    Args:
        task: Any; its store stays as it is, since an entry that is too long is dropped from a prompt, not refused.
        tokens_of: Tokens of a row with all that stands around it and its answer.
        limit: The model's context, in tokens.
        problems: Raises at the first row that is longer, or counts such rows; a note says how many.

    Raises:
        DataError: A row is too long, or none is left to train on or to test with.

    Example:
        >>> from coldframe.tasks.task import Schema
        >>> rows = [Example("a b c", "x", "1", "1", row=2), Example("a", "x", "2", "2", row=3)]
        >>> task = Task(Schema("t", "generation"), tuple(rows), (), tuple(rows))
        >>> short = drop_long(task, lambda row: len(row.text.split()), 2, Problems("skip"))
        >>> len(short.train), short.notes[0]
        (1, "Skipped 2 unusable row(s); the first: Row 2 (1, train) is longer than the model's context")
    """
    skipped = len(problems.skipped)
    parts = {"train": task.train, "validation": task.validation, "test": task.test}
    short = {name: within(rows, tokens_of, limit, problems, name) for name, rows in parts.items()}
    for name, rows in parts.items():
        if rows and not short[name]:
            raise DataError(f"All {name} rows are longer than the model's context", expected=f"at most {limit} tokens")
    if len(problems.skipped) == skipped:
        return task
    counted = Problems("skip")
    counted.skipped = problems.skipped[skipped:]
    notes = (*task.notes, *counted.notes())
    train, validation, test = short.values()
    return dataclasses.replace(task, train=train, validation=validation, test=test, notes=notes)


def within(
    rows: Sequence[Example], tokens_of: Callable[[Example], int], limit: int, problems: Problems, part: str = ""
) -> tuple[Example, ...]:
    """The rows that a model can read.

    Args:
        rows: Of one part.
        tokens_of: As for :func:`drop_long`.
        limit: As for :func:`drop_long`.
        problems: Gets the others.
        part: What the part is called in messages.
    """
    short = []
    for row in rows:
        if (tokens := tokens_of(row)) <= limit:
            short.append(row)
        else:
            problems.add(too_long(f"Row {row.row} ({row.id}{', ' if part else ''}{part})", tokens, limit))
    return tuple(short)


def too_long(name: str, tokens: int, limit: int) -> DataError:
    """The error that names a row."""
    return DataError(
        f"{name} is longer than the model's context",
        got=f"{tokens:,} tokens",
        expected=f"at most {limit:,}",
        fix="Shorten it, take a model with a longer context, or skip such rows with --on-error skip.",
    )
