"""The report's table for a terminal, from the same data."""

from __future__ import annotations

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from coldframe.evaluation.figures import si
from coldframe.evaluation.report_data import ReportData
from coldframe.evaluation.verdict import verdict

_COLOURS = {"gain": "green", "loss": "red", "undecided": "yellow", None: "yellow"}
_ROLES = {"method": "", "control": "control", "no-lm": "no LM"}


def render_table(data: ReportData) -> Group:
    """Verdict and scores, to be printed by a ``rich.console.Console``.

    Example:
        >>> from rich.console import Console
        >>> from coldframe.evaluation.intervals import Interval
        >>> from coldframe.evaluation.report_data import MethodRow, MetricInfo, Score
        >>> row = MethodRow("IDPG", "method", (Score("accuracy", Interval(81.0, 78.0, 84.0, n=500)),))
        >>> data = ReportData("trec", "smollm2", "IDPG", "accuracy", (MetricInfo("accuracy", "Accuracy"),), (row,))
        >>> console = Console(width=100)
        >>> with console.capture() as shown:
        ...     console.print(render_table(data))
        >>> "81.0 [78.0, 84.0]" in shown.get()
        True
    """
    found = verdict(data)
    text = Text(found.headline)
    if found.too_few:
        text.append("\n" + found.too_few, style="yellow")
    own = data.main_row.score(data.metric)
    table = Table(title=Text(f"{data.task}, {data.model}, n = {own.n if own else 0}"), title_justify="left")
    table.add_column("method")
    table.add_column("", style="dim")
    table.add_column(f"{data.primary.title} [95%]", justify="right")
    table.add_column(f"{data.main} minus it", justify="right")
    others = [info for info in data.metrics if info.name != data.metric]
    for info in others:
        table.add_column(info.title, justify="right")
    table.add_column("seeds", justify="right")
    table.add_column("trained", justify="right")
    table.add_column("FLOPs/query", justify="right")
    outcomes = {one.name: one.outcome for one in found.comparisons}
    for row in data.ranked():
        score, cost = row.score(data.metric), row.cost
        flops = (cost.prefill_flops or 0) + (cost.encoder_flops or 0) if cost else 0
        difference = data.primary.span(row.difference, sign=True) if row.difference else "–"
        cells = [data.primary.span(score) if score else "–"]
        for info in others:
            other = row.score(info.name)
            cells.append(info.show(other.value) if other else "–")
        # Text, not str: a name with square brackets is a name, not markup.
        table.add_row(
            Text(row.name),
            _ROLES[row.role],
            cells[0],
            Text(difference, style=_COLOURS[outcomes[row.name]] if row.name in outcomes else ""),
            *cells[1:],
            str(score.seeds) if score else "–",
            si(cost.trainable_parameters) if cost else "–",
            si(flops) if flops else "–",
            style="bold" if row.name == data.main else "",
        )
    return Group(Panel(text, border_style=_COLOURS[found.outcome]), table)
