"""``coldframe evaluate``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from coldframe.cli.backend import load
from coldframe.cli.coverage import CoverageFlags, lines_of
from coldframe.cli.output import print_json, show, tell
from coldframe.cli.parsing import parse
from coldframe.cli.rows import labelled, own_test
from coldframe.config import local_path
from coldframe.progress import working
from coldframe.tasks.table import OnError

if TYPE_CHECKING:
    from coldframe.evaluation.report_data import MethodRow
    from coldframe.pipeline.conformal import Coverage
    from coldframe.pipeline.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Evaluate(CoverageFlags):
    """Score an artifact: metrics with 95% intervals, cost, and what the exemplars' order does.

    For example:
      coldframe evaluate runs/b3db
      coldframe evaluate runs/b3db --shuffle-exemplars 5 --json
      coldframe evaluate runs/mood new.csv --predictions new.jsonl
      coldframe evaluate runs/mood --coverage 0.9
      coldframe evaluate runs/b3db --backend http://localhost:8000/v1

    Args:
        artifact: Folder that `coldframe fit` wrote, or a hub repository.
        data: A file whose rows are all scored (columns as in training), or a built-in task; the test rows of the
            artifact's own task if you name none.
        text: Input column of the file, if it has another name than in training.
        label: Label column of the file, likewise.
        shuffle_exemplars: Permutations of every query's exemplars; the standard deviation of the primary metric over
            them is `shuffle_std`.
        predictions: Also write one record per query to this JSON lines file.
        cost: Do not measure operations, latency and memory.
        on_error: Stop at the first row that cannot be used, or skip such rows and count them.
        allow_leaks: Score rows that are among the exemplars too, and say so.
        exact: Read one query at a time, so that a score does not depend on the batch, to the bit; several times slower.
        json: Print the result as JSON.
        quiet: No progress.
    """

    artifact: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    data: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="DATA")] = None
    text: str | None = None
    label: str | None = None
    shuffle_exemplars: int = 0
    predictions: str | None = None
    cost: bool = True
    on_error: OnError = "raise"
    allow_leaks: bool = False
    exact: bool = False
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> None:
    """Load, predict, score."""
    options = parse(Evaluate, "evaluate", argv)
    from coldframe.evaluation.measure import measure
    from coldframe.evaluation.summary import method_row
    from coldframe.pipeline.conformal import Coverage

    pipeline = load(options.artifact, options, options.exact, options.quiet)
    limits = options.limits(pipeline)
    if options.data is None:
        examples, notes = own_test(pipeline, options.allow_leaks)
    else:
        examples, notes = labelled(
            pipeline, options.data, options.text, options.label, options.on_error, options.allow_leaks
        )
    tell(notes, options.quiet)
    predictions = pipeline.predictions(examples, quiet=options.quiet)
    if options.predictions is not None:
        predictions.save(local_path(options.predictions))
    cost = None
    if options.cost:
        with working("measuring costs", options.quiet):
            cost = measure(pipeline.method, pipeline.lm, pipeline.schema, examples, pipeline.retrieve)
    sets = None if limits is None else Coverage.of(predictions, limits)
    row = method_row([predictions], pipeline.schema, cost=cost)
    with working("shuffling exemplars", options.quiet):
        spread = _spread(pipeline, examples, options.shuffle_exemplars)
    if options.json:
        print_json(_result(options, pipeline, row, spread, sets, notes))
    else:
        _print(pipeline, row, spread, options.coverage, sets)


def _spread(pipeline: Pipeline, examples: Sequence[Any], shuffles: int) -> float | None:
    from coldframe.evaluation.runs import order_deviation

    if not shuffles:
        return None
    # A method that looks at no exemplars has none to shuffle.
    return order_deviation(pipeline, examples, shuffles) if pipeline.method.uses_retrieval else 0.0


def _result(
    options: Evaluate,
    pipeline: Pipeline,
    row: MethodRow,
    spread: float | None,
    sets: Coverage | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    metrics = {}
    for score in row.scores:
        interval = score.interval
        metrics[score.metric] = {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}
    return {
        "artifact": options.artifact,
        "task": pipeline.schema.name,
        "method": pipeline.method.name,
        "primary": pipeline.schema.metric,
        "metrics": metrics,
        "shuffles": options.shuffle_exemplars,
        "shuffle_std": spread,
        "sets": None
        if sets is None
        else {"coverage": options.coverage, "by_class": options.by_class, **dataclasses.asdict(sets)},
        "order_invariant": pipeline.method.order_invariant,
        "cost": None if row.cost is None else row.cost.to_dict(),
        "notes": list(notes),
    }


def _print(
    pipeline: Pipeline, row: MethodRow, spread: float | None, coverage: float | None, sets: Coverage | None
) -> None:
    from coldframe.evaluation.report import COSTS
    from coldframe.evaluation.summary import metric_infos
    from coldframe.reports import terminal
    from coldframe.reports.blocks import Table

    infos = metric_infos([score.metric for score in row.scores])
    lines = [(info.title, info.span(score.interval)) for info, score in zip(infos, row.scores, strict=True)]
    if spread is not None:
        lines.append(("standard deviation over orders", f"{spread:.4g}"))
    lines += [(f"{column.title} ({column.unit})", str(value)) for column in COSTS if (value := column.cell(row))]
    if sets is not None and coverage is not None:
        lines += lines_of(sets, coverage)
    title = f"{pipeline.method.name} on {pipeline.schema.name}, n = {row.scores[0].interval.n}"
    show(terminal.render([Table.plain(("metric", "value [95%]"), lines, title=title)]))
