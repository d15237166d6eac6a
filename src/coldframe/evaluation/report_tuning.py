"""How the rows of a report were tuned: a cell of the table of scores, and a table of what was chosen."""

from __future__ import annotations

from typing import Literal

from coldframe.evaluation.report_data import MethodRow, ReportData
from coldframe.evaluation.verdict import CLAIM_SEEDS
from coldframe.reports.blocks import Block, Column, Table, Text
from coldframe.reports.numbers import flatten


def trials(data: ReportData, row: MethodRow) -> str | None:
    """How many trials a row had; None where no row was tuned."""
    if not data.tuning:
        return None
    if row.tuning is None:
        return "not tuned"
    if row.tuning.shared:
        return f"as {row.tuning.shared}"
    return str(row.tuning.trials) if row.tuning.trials else "nothing to tune"


def tuning(data: ReportData) -> tuple[Block, ...]:
    """What was chosen for each row; nothing where no row was tuned."""
    rows = [row for row in data.ranked() if row.tuning is not None and row.tuning.trials and not row.tuning.shared]
    if not data.tuning:
        return ()
    columns: list[Column[MethodRow]] = [
        Column("method", lambda row: row.name),
        Column("trials", lambda row: _counts(row)),
        Column("as it was", lambda row: _score(data, row, "first_score"), "on validation"),
        Column("chosen", lambda row: _score(data, row, "score"), "on validation"),
        Column("chosen settings", lambda row: _settings(row), words=True),
    ]
    end = " A chosen score is the best of its trials, so that new rows show less."
    return (Text(data.tuning + end, "soft"), *([Table.of(columns, rows)] if rows else []))


def budget(data: ReportData) -> tuple[Block, ...]:
    """Two lines that a page of results must have: trials and seeds."""
    most = max((row.tuning.trials for row in data.rows if row.tuning), default=0)
    own = data.main_row.score(data.metric)
    seeds = 0 if own is None else own.seeds
    few = "" if seeds >= CLAIM_SEEDS else ", fewer than the five that a claim needs"
    return (
        Text(f"Trials: {most} at most for each row." if data.tuning else "Trials: not tuned (without --tune)."),
        Text(f"Seeds: {seeds}{few}."),
    )


def _counts(row: MethodRow) -> str | None:
    """The trials, and those that came to nothing."""
    if row.tuning is None:
        return None
    ends = {"stopped early": row.tuning.pruned, "failed": row.tuning.failed}
    parts = [f"{count} {words}" for words, count in ends.items() if count]
    return f"{row.tuning.trials}" + (f" ({', '.join(parts)})" if parts else "")


def _score(data: ReportData, row: MethodRow, name: Literal["score", "first_score"]) -> str | None:
    value: float | None = getattr(row.tuning, name, None)
    return None if value is None else data.primary.show(value)


def _settings(row: MethodRow) -> str | None:
    if row.tuning is None:
        return None
    rounded = {
        name: float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in row.tuning.settings.items()
    }
    pairs = flatten(rounded)
    return ", ".join(f"{name} = {value}" for name, value in pairs) or None
