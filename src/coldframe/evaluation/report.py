"""The report: one HTML file that needs nothing else, made from plain data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from coldframe.errors import MissingExtraError
from coldframe.evaluation import figures
from coldframe.evaluation.calibration import calibration_error
from coldframe.evaluation.cost import Cost
from coldframe.evaluation.drawings import molecule_uri
from coldframe.evaluation.report_data import MethodRow, Published, ReportData
from coldframe.evaluation.verdict import verdict
from coldframe.storage.files import atomic_path

if TYPE_CHECKING:
    from jinja2 import Environment

#: Title, unit, and how a row's cost is written in a column of the table.
CostColumn: TypeAlias = tuple[str, str, Callable[[Cost], str]]

#: Longest text of a sample, in characters.
MAX_TEXT = 600


def render_report(data: ReportData) -> str:
    """The report as HTML.

    Everything that comes from data is escaped; the page loads nothing, runs no script, and says so to the
    browser in its content security policy.

    Args:
        data: What to show.

    Raises:
        MissingExtraError: jinja2 (extra ``report``), or RDKit (extra ``chem``) for the samples of a molecule
            task, is not installed.
    """
    environment = page_environment("coldframe.evaluation")
    environment.globals["molecule_uri"] = molecule_uri
    rows = data.ranked()
    return environment.get_template("report.html.j2").render(
        data=data,
        primary=data.primary,
        verdict=verdict(data),
        rows=rows,
        columns=[data.primary, *(info for info in data.metrics if info.name != data.metric)],
        order_column=any(row.order_std is not None for row in rows),
        cost_columns=cost_columns(rows),
        forest=figures.forest(data),
        scatter=figures.scatter(data),
        learning=figures.learning(data),
        sweeps=figures.sweeps(data),
        reliability=[
            (one.method, figures.bubbles(one), calibration_error(one.bins)) for one in data.reliability if one.bins
        ],
        published=[(one, _ours(data, one)) for one in data.published],
        settings=flatten(data.settings),
        provenance=flatten(data.provenance),
    )


def page_environment(*packages: str) -> Environment:
    """What fills the templates of pages: everything is escaped, and a name that is not there is an error.

    Args:
        *packages: With a folder ``templates``; the first that has a template gives it.

    Raises:
        MissingExtraError: jinja2 (extra ``report``) is not installed.
    """
    try:
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("jinja2", "report", "Writing a report") from error
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shorten"] = _shorten
    environment.filters["clip"] = lambda value: min(max(value, 0.0), 100.0)
    environment.filters["p_value"] = lambda p: "< 0.001" if p < 0.001 else f"= {p:.3f}"
    return environment


def write_report(data: ReportData, path: str | Path) -> None:
    """Write the report, whole or not at all; the data goes beside it (``.json``), so that it can be made again.

    Args:
        data: What to show.
        path: Of the HTML file.
    """
    html, path = render_report(data), Path(path)
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(data.to_dict(), ensure_ascii=False), encoding="utf-8")
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def cost_columns(rows: Sequence[MethodRow]) -> list[CostColumn]:
    """The cost columns for which at least one row has a value."""

    def column(title: str, unit: str, name: str, show: Callable[[float], str]) -> CostColumn:
        def write(cost: Cost) -> str:
            value = getattr(cost, name)
            return "–" if value is None else show(value)

        return title, unit, write

    def plain(value: float) -> str:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")

    columns = {
        "trainable_parameters": ("trained", "parameters", figures.si),
        "context_tokens": ("context", "tokens", lambda value: f"{value:.0f}"),
        "prefill_flops": ("prefill", "FLOPs per query", figures.si),
        "shared_flops": ("shared prefix", "FLOPs, once", figures.si),
        "encoder_flops": ("encoder", "FLOPs per query", figures.si),
        "latency_ms": ("latency", "ms, median", lambda value: f"{value:.3g}"),
        "latency_p90_ms": ("latency", "ms, 90%", lambda value: f"{value:.3g}"),
        "peak_memory_mb": ("peak memory", "MB", plain),
    }
    costs = [row.cost for row in rows if row.cost]
    return [
        column(title, unit, name, show)
        for name, (title, unit, show) in columns.items()
        if any(getattr(cost, name) is not None for cost in costs)
    ]


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as pairs of a dotted name and a value.

    >>> flatten({"method": {"heads": 8, "k": 5}, "seeds": [0, 1]})
    [('method.heads', '8'), ('method.k', '5'), ('seeds', '0, 1')]
    """
    pairs = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{prefix}{key}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            pairs.append((f"{prefix}{key}", shown))
    return pairs


def _ours(data: ReportData, one: Published) -> str:
    """Our number beside a published one: the same method and metric, if both are in the table."""
    row = next((row for row in data.rows if row.name == one.method), None)
    info = next((info for info in data.metrics if info.name == one.metric), None)
    found = row.score(one.metric) if row else None
    return info.span(found) if info and found else "–"


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"
