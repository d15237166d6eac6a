"""The report of a comparison: verdict, scores, cost, curves. Blocks for page, Markdown and terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from rich.console import Group

from coldframe.evaluation.calibration import calibration_error
from coldframe.evaluation.report_data import LabelPrior, MethodRow, Published, ReportData
from coldframe.evaluation.report_samples import sample_cards
from coldframe.evaluation.report_tuning import budget, trials, tuning
from coldframe.evaluation.verdict import verdict
from coldframe.methods.soft_tokens.set_attention import attends
from coldframe.reports import blocks, html, markdown, terminal
from coldframe.reports.blocks import Block, Cell, Code, Column, Figure, Heading, Mark, Section, Table, Text, ranged
from coldframe.reports.figures import Bar, Bubbles, Chart, Dot, Forest, Kind, Line, Scatter
from coldframe.reports.numbers import MetricInfo, fixed, p_value, si
from coldframe.storage.files import write_json, write_text

#: Of a table beside its methods' names; more would be cut off on paper.
MOST_COLUMNS = 6


def render_report(data: ReportData) -> str:
    """The report as HTML; needs jinja2 (extra ``report``), and RDKit (extra ``chem``) for samples of molecules."""
    sections = (
        Section("Scores", _scores(data)),
        Section("Tuning", tuning(data)),
        Section("Score against cost", _scatter(data)),
        Section("Learning curves", _learning(data)),
        Section("How many exemplars, how many heads", _sweeps(data)),
        Section("Reliability", _reliability(data)),
        Section("Priors of the labels", _label_priors(data)),
        Section("Sample queries", sample_cards(data)),
        Section("Published numbers", _published(data)),
        blocks.provenance(data.command, {"Settings": data.settings, "Provenance": data.provenance}),
    )
    over = f"coldframe report · task {data.task} · frozen model {data.model}"
    header = (_banner(data, comparisons=True), *blocks.notes(data.notes))
    return html.render(blocks.Page(f"{data.main} on {data.task}", over, header, sections))


def render_markdown(data: ReportData) -> str:
    """Headline, table, notes, published numbers and the command that makes them again, for a page of results.

    Example:
        >>> from coldframe.inference.intervals import Interval
        >>> from coldframe.evaluation.report_data import Score
        >>> row = MethodRow("IDPG", "method", (Score("accuracy", Interval(81.0, 78.0, 84.0, n=500)),))
        >>> data = ReportData("trec", "smollm2", "IDPG", "accuracy", (MetricInfo("accuracy", "Accuracy"),), (row,))
        >>> "| **IDPG** | method | 81.0 [78.0, 84.0] | 500 | 1 |" in render_markdown(data)
        True
    """
    remarks = [f"{row.name}: {row.note}" for row in data.rows if row.note] + list(data.notes)
    parts = [_banner(data), Text(f"{data.task}, {data.model}."), *budget(data), scores(data), *tuning(data)]
    parts += blocks.notes(remarks)
    return markdown.render([*parts, *_published(data), *([Code(data.command)] if data.command else [])])


def render_table(data: ReportData) -> Group:
    """Verdict and scores, to be printed by a ``rich.console.Console``."""
    return terminal.render([_banner(data), scores(data), *tuning(data)])


def write_report(data: ReportData, path: str | Path) -> None:
    """Write the report, whole or not at all; the data goes beside it (``.json``), so that it can be made again.

    Args:
        data: What to show.
        path: Of the HTML file.
    """
    page = render_report(data)
    write_json(Path(path).with_suffix(".json"), data.to_dict(), indent=None)
    write_text(path, page)


def scores(data: ReportData, *, page: bool = False) -> Table:
    """Every method, best first; ``page`` adds notes and p-values, and leaves further metrics and costs to tables."""
    primary = data.primary
    outcomes = {comparison.name: comparison.outcome for comparison in verdict(data).comparisons}

    def difference(row: MethodRow) -> Cell | None:
        return ranged(row.difference, primary.decimals, sign=True, kind=outcomes.get(row.name, ""))

    p_values = Column[MethodRow](
        "p", lambda row: p_value(row.difference.p_value) if row.difference else None, "permutation"
    )
    columns: list[Column[MethodRow]] = [
        _named(data, notes=page),
        Column("kind", lambda row: "no LM" if row.role == "no-lm" else row.role, words=True),
        _metric(primary, interval=True),
        Column("n", lambda row: str(score.n) if (score := row.score(primary.name)) else None),
        Column("seeds", lambda row: str(score.seeds) if (score := row.score(primary.name)) else None),
        Column("trials", lambda row: trials(data, row), "tuning"),
        Column(f"{data.main} minus it", difference, "[95%], paired"),
        *([p_values] if page else []),
        *([] if page else (_metric(info, interval=False) for info in data.metrics if info != primary)),
        Column("order std", lambda row: None if row.order_std is None else fixed(row.order_std, 2), "over shuffles"),
        *([] if page else (ATTENTION, *COSTS[:4])),
    ]
    return Table.of(columns, data.ranked(), title=f"{data.task}, {data.model}")


def _further(data: ReportData) -> tuple[Block, ...]:
    """The other metrics and the costs, each in tables of few columns: a page is no wider than its reader's."""
    metrics = [_metric(info, interval=True) for info in data.metrics if info != data.primary]
    tables_of = {"Other metrics": metrics, "Attention over exemplars": [ATTENTION], "What it costs": list(COSTS)}
    parts: list[Block] = []
    for title, columns in tables_of.items():
        rows = [row for row in data.ranked() if any(column.cell(row) is not None for column in columns)]
        measured = [column for column in columns if any(column.cell(row) is not None for row in rows)]
        parts += [Heading(title)] if measured else []
        tables = math.ceil(len(measured) / MOST_COLUMNS)
        for i in range(tables):  # of about as many columns each
            share = measured[i * len(measured) // tables : (i + 1) * len(measured) // tables]
            parts.append(Table.of([_named(data), *share], rows))
    return tuple(parts)


def _named(data: ReportData, *, notes: bool = False) -> Column[MethodRow]:
    def cell(row: MethodRow) -> Cell:
        return Cell(row.name, row.note if notes else "", "main" if row.name == data.main else "")

    return Column("method", cell)


def _metric(info: MetricInfo, interval: bool) -> Column[MethodRow]:
    def cell(row: MethodRow) -> Cell | str | None:
        score = row.score(info.name)
        return ranged(score, info.decimals) if interval or score is None else info.show(score.value)

    return Column(info.title, cell, ", ".join(["[95%]"] * interval + ["less is better"] * (not info.higher)))


def _cost(title: str, unit: str, name: str, show: Callable[[float], str] = si) -> Column[MethodRow]:
    def cell(row: MethodRow) -> str | None:
        value = getattr(row if hasattr(row, name) else row.cost, name, None)
        return None if value is None else show(value)

    return Column(title, cell, unit)


#: Whether a method chooses among its exemplars or takes their mean.
ATTENTION = Column[MethodRow](
    "attention",
    lambda row: None if row.attention_entropy is None else attends(row.attention_entropy),
    "entropy by the greatest possible",
    words=True,
)
#: What a method costs, one column each; a table leaves out those in which no row has a value.
COSTS: tuple[Column[MethodRow], ...] = (
    _cost("trained", "parameters", "trainable_parameters"),
    _cost("stored", "bytes a passage", "bytes_per_passage"),
    _cost("context", "tokens", "context_tokens", lambda tokens: fixed(tokens, 0)),
    _cost("operations", "FLOPs a query", "flops"),
    _cost("prefill", "FLOPs a query", "prefill_flops"),
    _cost("encoder", "FLOPs a query", "encoder_flops"),
    _cost("shared prefix", "FLOPs, once", "shared_flops"),
    _cost("latency", "ms, median", "latency_ms", "{:.3g}".format),
    _cost("latency", "ms, 90%", "latency_p90_ms", "{:.3g}".format),
    _cost("peak memory", "MB, answering", "peak_memory_mb", "{:,.0f}".format),
    _cost("peak memory", "MB, fitting", "fit_memory_mb", "{:,.0f}".format),
)


def _banner(data: ReportData, *, comparisons: bool = False) -> blocks.Banner:
    result = verdict(data)
    parts: list[Block] = [Text(remark, "warn") for remark in (result.too_few, result.few_seeds) if remark]
    if comparisons and result.comparisons:
        parts.append(blocks.Bullets(tuple(Mark(c.text, c.outcome) for c in result.comparisons), "against"))
    return blocks.Banner(result.outcome or "undecided", result.headline, tuple(parts))


def _kind(data: ReportData, row: MethodRow) -> Kind:
    return "main" if row.name == data.main else row.role


def _scores(data: ReportData) -> tuple[Block, ...]:
    bars = []
    for row in data.ranked():
        score = row.score(data.metric)
        if score and math.isfinite(score.value):
            seeds = row.seed_values if score.seeds > 1 else ()
            bars.append(Bar.of(row.name, _kind(data, row), score, data.primary.span(score), points=seeds))
    positive = f" The positive label is “{data.positive}”." if data.positive else ""
    caption = (
        f"{data.primary.title} of every method: the mean over its seeds with a 95% interval over test rows and "
        f"seeds. Rings are single seeds, the dashed line is {data.main}.{positive}"
    )
    keys = {"main": data.main, "method": "with the language model", "control": "control with it", "no-lm": "without it"}
    shown = {bar.kind for bar in bars}
    return (
        Text(caption, "soft"),
        Text(tuple(Mark(words, f"key {kind}") for kind, words in keys.items() if kind in shown), "soft"),
        Figure(Forest.of(data.primary.title, bars, [bar.value for bar in bars if bar.kind == "main"])),
        scores(data, page=True),
        *_further(data),
    )


def _scatter(data: ReportData) -> tuple[Block, ...]:
    """Score against operations; the best control without a language model, which takes hardly any, is a line."""
    dots, rivals = [], []
    for row in data.ranked():
        score, flops = row.score(data.metric), row.cost.flops if row.cost else None
        if score and row.role == "no-lm" and math.isfinite(score.value):
            rivals.append((f"{row.name}, no language model", score.value))
        elif score and flops and math.isfinite(score.low + score.high):
            dots.append(Dot(row.name, _kind(data, row), flops, score.value, score.low, score.high))
    across = "operations per query (FLOPs, logarithmic)"
    scatter = Scatter.of(f"{data.primary.title} by cost", across, dots, rivals[0] if rivals else None)
    caption = "Up: the score with its 95% interval. Across: the operations that one query takes, encoder included."
    return (Figure(scatter, caption),) if scatter else ()


def _learning(data: ReportData) -> tuple[Block, ...]:
    """For each method training loss and validation score by epoch, one line for each seed."""
    parts: list[Block] = [Text("One line for each seed; the ring is the epoch whose weights are used.", "soft")]
    for method in dict.fromkeys(curve.method for curve in data.curves):
        losses, scores, epochs = [], [], []
        for curve in (curve for curve in data.curves if curve.method == method):
            chosen = next((point for point in curve.validation if point[0] == curve.chosen), None)
            losses.append(Line(f"seed {curve.seed}", curve.loss))
            scores.append(Line(f"seed {curve.seed}", curve.validation, marked=chosen))
            epochs += [epoch for epoch, _ in (*curve.loss, *curve.validation)]
        # One scale for both charts, so that an epoch stands above itself.
        charts = {"training loss": losses, f"validation {data.primary.words}": scores}
        shown = (Chart.of(f"{method}: {name}", "epoch", lines, x_values=epochs) for name, lines in charts.items())
        parts += blocks.figures(shown)
    return tuple(parts) if data.curves else ()


def _sweeps(data: ReportData) -> tuple[Block, ...]:
    """For each setting the primary metric over its values; equal steps, because settings grow by doubling."""
    charts = []
    for setting in dict.fromkeys(sweep.setting for sweep in data.sweeps):
        sweeps = [sweep for sweep in data.sweeps if sweep.setting == setting]
        values, lines = sorted({point.x for sweep in sweeps for point in sweep.points}), []
        for sweep in sweeps:
            points = sorted((float(values.index(point.x)), point.interval) for point in sweep.points)
            band = tuple((interval.low, interval.high) for _, interval in points)
            lines.append(Line(sweep.method, tuple((place, interval.value) for place, interval in points), band))
        ticks = {float(place): f"{value:g}" for place, value in enumerate(values)}
        charts.append(Chart.of(f"{data.primary.title} by {setting}", setting, lines, ticks=ticks))
    note = Text("The main method with other values of a setting; bands are 95% intervals.", "soft")
    return (note, *blocks.figures(charts)) if charts else ()


def _reliability(data: ReportData) -> tuple[Block, ...]:
    drawings = []
    for diagram in (diagram for diagram in data.reliability if diagram.bins):
        title = f"{diagram.method}: expected calibration error {100 * calibration_error(diagram.bins):.1f}"
        hint = "{0.count} predictions: stated {0.confidence:.0%}, right {0.accuracy:.0%}"
        points = tuple((bin.confidence, bin.accuracy, bin.count, hint.format(bin)) for bin in diagram.bins)
        drawings.append(Bubbles(title, "stated probability, %", points))
    note = (
        "Up: the share of right answers. Across: the probability that was stated for them. On the dashed line a "
        "probability means what it says. The area of a dot is its number of predictions."
    )
    return (Text(note, "soft"), *blocks.figures(drawings)) if drawings else ()


PRIORS_SHOWN = 12  # labels at most


def _label_priors(data: ReportData) -> tuple[Block, ...]:
    """Mean probabilities of the labels by method; of many labels those that are furthest from their shares."""
    if not data.label_priors:
        return ()
    main = data.main if data.main in data.label_priors[0].priors else next(iter(data.label_priors[0].priors))
    furthest = sorted(data.label_priors, key=lambda row: -abs(row.priors[main] - row.share))[:PRIORS_SHOWN]
    rows = [row for row in data.label_priors if row in furthest]
    columns: list[Column[LabelPrior]] = [
        Column("label", lambda row: row.label, words=True),
        Column("share", lambda row: fixed(row.share, 1), "of the test rows, %"),
    ]
    columns += [
        Column(name, lambda row, name=name: fixed(row.priors[name], 1), "%")  # type: ignore[misc]
        for name in data.label_priors[0].priors
    ]
    note = (
        "The mean probability of each label over the test rows. A label far above its share wins whatever is read; "
        "coldframe fit --calibrate corrects that on validation rows."
    )
    if len(rows) < len(data.label_priors):
        note += f" Shown are the {len(rows)} of {len(data.label_priors)} labels that are furthest off for {main}."
    return (Text(note, "soft"), Table.of(columns, rows))


def _published(data: ReportData) -> tuple[Block, ...]:
    """Numbers from papers, each beside ours in the same metric, if both are in the table."""
    rows = {row.name: row for row in data.rows}
    infos = {info.name: info for info in data.metrics}

    def ours(number: Published) -> str | None:
        score = rows[number.method].score(number.metric) if number.method in rows else None
        return infos[number.metric].span(score) if score and number.metric in infos else None

    columns: list[Column[Published]] = [
        Column("published", lambda number: number.method),
        Column("metric", lambda number: number.metric, words=True),
        Column("value", lambda number: str(number.value)),
        Column("ours", ours),
        Column("their model", lambda number: number.model, words=True),
        Column("their setting", lambda number: number.setting or None, words=True),
        Column("source", lambda number: number.source, words=True),
    ]
    note = "Measured by others, on other models and in other settings: for orientation, not as a comparison."
    return (Text(note, "soft"), Table.of(columns, data.published)) if data.published else ()
