"""Where ours is read: rows of a comparison, or places in the results of a script."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from coldframe.claims.entry import Entry, Row
from coldframe.claims.verdict import Ours
from coldframe.config import Config
from coldframe.errors import DataError, nearest
from coldframe.evaluation.compare import paired_difference
from coldframe.evaluation.comparison import Comparison
from coldframe.evaluation.cost import Cost
from coldframe.inference.intervals import score_interval
from coldframe.inference.predictions import Predictions

#: What a row of a comparison has beside its metrics; a number without an interval.
OF_ROWS = ("order_std", "bytes_per_passage", "attention_entropy")
COSTS = tuple(field.name for field in dataclasses.fields(Cost)) + ("flops",)
SECONDS = "seconds"


@dataclasses.dataclass(frozen=True)
class Measured(Config):
    """Ours for one row of a claim, and what it cost to make.

    Args:
        ours: The number; None where it could not be read, and ``remark`` says why.
        seconds: Of fitting and scoring the rows of the comparison that it is read from, or of the whole script.
        trials: Of tuning them, all together.
        remark: What a reader must know.
    """

    section = "measured row"

    ours: Ours | None
    seconds: float
    trials: int = 0
    remark: str = ""


def of_comparison(entry: Entry, comparison: Comparison) -> tuple[Measured, ...]:
    """Ours for every row of a claim.

    Raises:
        DataError: The comparison has no such row or metric.
    """
    return tuple(_of_row(row, comparison) for row in entry.rows)


def _of_row(row: Row, comparison: Comparison) -> Measured:
    for name in row.of:
        if name not in comparison.runs:
            raise DataError(f"The comparison has no row {name!r}", fix=nearest(name, comparison.runs))
    seconds = sum(comparison.seconds_by_row[name] for name in dict.fromkeys(row.of))
    searches = [comparison.searches[name] for name in row.of if name in comparison.searches]
    trials = sum(search.tuning.trials for search in searches)
    seconds += sum(float(trial.get("seconds") or 0) for search in searches for trial in search.trials)
    ours, remark = _counted(row, comparison) if _is_counted(row) else (_scored(row, comparison), "")
    return Measured(ours, round(seconds, 1), trials, remark)


def _is_counted(row: Row) -> bool:
    return row.metric in (*COSTS, *OF_ROWS, SECONDS)


def _counted(row: Row, comparison: Comparison) -> tuple[Ours | None, str]:
    values = [_number(name, row.metric, comparison) for name in row.of]
    for name, value in zip(row.of, values, strict=True):
        if value is None:
            return None, f"{row.metric} of {name} was not measured."
    first, *rest = (value for value in values if value is not None)
    if not rest:
        return Ours.exactly(first), ""
    if row.compare == "ratio":
        return (Ours.exactly(first / rest[0]), "") if rest[0] else (None, f"{row.metric} of {row.of[1]} is 0.")
    return Ours.exactly(first - rest[0]), ""


def _number(name: str, metric: str, comparison: Comparison) -> float | None:
    if metric == SECONDS:
        return comparison.seconds_by_row[name]
    shown = next((row for row in comparison.data.rows if row.name == name), None)
    value = None if shown is None else getattr(shown if metric in OF_ROWS else shown.cost, metric, None)
    return None if value is None or not math.isfinite(value) else float(value)


def _scored(row: Row, comparison: Comparison) -> Ours:
    runs = shared_rows([comparison.runs[name] for name in row.of])
    metric, positive = row.metric or comparison.data.metric, comparison.data.positive
    place = runs[0][0].labels.index(positive) if positive in runs[0][0].labels else None
    seeds = min(len(seeds_of) for seeds_of in runs)
    if len(runs) == 1:
        score = score_interval(runs[0], metric, place)
        return Ours(score.value, score.low, score.high, score.n, seeds)
    if row.compare == "ratio":
        raise DataError(f"{row.claim!r}: ratios are of costs", got=metric, fix="Compare the sign or the value.")
    gap = paired_difference(runs[0], runs[1], metric, place)
    return Ours(gap.value, gap.low, gap.high, gap.n, seeds)


def shared_rows(runs: Sequence[Sequence[Predictions]]) -> list[list[Predictions]]:
    """The predictions of those rows that all have: methods that read exemplars as text may have answered a sample."""
    ids = set.intersection(*(set(seeds[0].ids) for seeds in runs))
    return [[run.at([i for i, name in enumerate(run.ids) if name in ids]) for run in seeds] for seeds in runs]


def of_results(entry: Entry, results: Any, seconds: float) -> tuple[Measured, ...]:
    """Ours for every row of a claim, out of what a script wrote; a place that is not there is said in the row."""
    rows = []
    for row in entry.rows:
        try:
            rows.append(Measured(number_at(results, row.path), round(seconds, 1)))
        except DataError as error:
            rows.append(Measured(None, round(seconds, 1), remark=str(error)))
    return tuple(rows)


def number_at(results: Any, path: str) -> Ours:
    """The number at a place in JSON, with its interval if it has one: a mapping, or a list of value, low and high.

    Example:
        >>> scores = [{"system": "prag", "k": 1, "f1": {"value": 76.4, "low": 69.7, "high": 81.9, "n": 180}}]
        >>> number_at({"scores": scores}, "scores/system=prag&k=1/f1").low
        69.7
        >>> number_at({"heads": {"1": 4750000}}, "heads/1").value
        4750000.0

    Raises:
        DataError: There is nothing, or no number.
    """
    value, so_far = results, ""
    for part in path.split("/"):
        value = _step(value, part, so_far or "the results")
        so_far = f"{so_far}/{part}".lstrip("/")
    if isinstance(value, Mapping) and isinstance(value.get("value"), int | float):
        # Null stands for an end that is not defined: then nothing can be told.
        low, high = (float("nan") if value.get(end) is None else float(value[end]) for end in ("low", "high"))
        return Ours(float(value["value"]), low, high, value.get("n"), int(value.get("seeds", 1)))
    if isinstance(value, list) and len(value) == 3 and all(isinstance(item, int | float) for item in value):
        return Ours(float(value[0]), float(value[1]), float(value[2]))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"There is no number at {path}", got=repr(value)[:80])
    return Ours.exactly(float(value))


def _step(value: Any, part: str, place: str) -> Any:
    if isinstance(value, Mapping):
        if part not in value:
            raise DataError(f"There is no {part!r} in {place}", fix=nearest(part, map(str, value)) if value else None)
        return value[part]
    if not isinstance(value, list):
        raise DataError(f"There is no {part!r} in {place}", got=repr(value)[:80])
    wanted = dict(pair.partition("=")[::2] for pair in part.split("&"))
    for item in value:
        if isinstance(item, Mapping) and all(str(item.get(key)) == text for key, text in wanted.items()):
            return item
    raise DataError(f"No element of {place} has {part}")
