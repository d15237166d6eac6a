"""Where the marks of a report's figures go.

Positions are percentages of the drawing area, x from the left and y from the top, so that a figure takes any
width while its text keeps its size. The templates draw; nothing here knows of HTML.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from coldframe.evaluation.report_data import MethodRow, MetricInfo, Point, Reliability, ReportData, Sweep, TrainingCurve

#: Least distance between two labels of the scatter plot, in percent of its height.
_LABEL_GAP = 4.8
#: Dots closer than this share one column of labels, in percent of its width.
_COLUMN = 12.0


@dataclasses.dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    at: float
    text: str


@dataclasses.dataclass(frozen=True)
class Axis:
    """A scale from data to 0..100.

    Attributes:
        low: Data value at 0.
        high: Data value at 100.
        log: Whether the scale is logarithmic.
        ticks: What is written beside it.
    """

    low: float
    high: float
    log: bool
    ticks: tuple[Tick, ...]

    @classmethod
    def over(cls, values: Iterable[float], *, log: bool = False, count: int = 5, pad: float = 0.04) -> Axis:
        """An axis that holds all finite values, with round ticks."""
        finite = [value for value in values if math.isfinite(value)] or [1.0]
        if log:
            low, high = math.log10(min(finite)), math.log10(max(finite))
            room = max(0.05 * (high - low), 0.08)
            axis = cls(10 ** (low - room), 10 ** (high + room), True, ())
            inside: list[float] = []
            # Powers of ten over a wide range; over a narrow one the digits between them as well.
            for digits in ((1,), (1, 2, 5), range(1, 10), [m / 10 for m in range(10, 100)]):
                marks = [m * 10.0**e for e in range(math.floor(low - room), math.ceil(high + room) + 1) for m in digits]
                inside = [mark for mark in marks if axis.low <= mark <= axis.high]
                if len(inside) >= 3:
                    break
            inside = inside[:: math.ceil(len(inside) / 8)]
            return dataclasses.replace(axis, ticks=tuple(Tick(axis(mark), si(mark)) for mark in inside))
        low, high = min(finite), max(finite)
        room = pad * (high - low) or 0.5 * abs(high) or 0.5
        low, high = low - room, high + room
        step = _round_step((high - low) / count)
        first = math.ceil(low / step - 1e-9)
        marks = [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        axis = cls(low, high, False, ())
        return dataclasses.replace(
            axis, ticks=tuple(Tick(axis(mark), f"{mark:.{decimals}f}".replace("-", "\N{MINUS SIGN}")) for mark in marks)
        )

    def __call__(self, value: float) -> float:
        """The position of a value, 0 to 100."""
        if self.log:
            share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(100 * share, 2)

    def up(self, value: float) -> float:
        """The position on a vertical axis, which counts from the top."""
        return round(100 - self(value), 2)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return min((power * factor for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))


def si(value: float) -> str:
    """A number with a unit prefix.

    >>> [si(value) for value in (0, 950, 24_850_000, 5.64e9, 1.234e12)]
    ['0', '950', '24.9 M', '5.64 G', '1.23 T']
    """
    for power, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= power:
            return f"{value / power:.3g} {prefix}"
    return f"{value:.3g}"


@dataclasses.dataclass(frozen=True)
class Whisker:
    """One score of the forest plot: positions, and what is written beside them."""

    row: MethodRow
    low: float
    value: float
    high: float
    seeds: tuple[float, ...]
    text: str


@dataclasses.dataclass(frozen=True)
class Forest:
    """All methods' scores below one another, best first."""

    axis: Axis
    whiskers: tuple[Whisker, ...]
    reference: float


def forest(data: ReportData) -> Forest:
    """The primary metric of every method with its interval; the main method's value is the reference line."""
    found = [(row, score) for row in data.ranked() if (score := row.score(data.metric)) and math.isfinite(score.value)]
    axis = Axis.over([x for row, s in found for x in (s.low, s.value, s.high, *row.seed_values)], count=6)
    whiskers = tuple(
        Whisker(
            row,
            axis(score.low),
            axis(score.value),
            axis(score.high),
            tuple(axis(value) for value in row.seed_values if math.isfinite(value)) if score.seeds > 1 else (),
            data.primary.span(score),
        )
        for row, score in found
    )
    return Forest(axis, whiskers, next((w.value for w in whiskers if w.row.name == data.main), 50.0))


@dataclasses.dataclass(frozen=True)
class Dot:
    """One method in the scatter plot; its label stands beside it, on the left of it or on the right."""

    row: MethodRow
    x: float
    y: float
    low: float
    high: float
    left: bool
    label_x: float = 0.0
    label_y: float = 0.0


@dataclasses.dataclass(frozen=True)
class Scatter:
    """Score against operations; the best control without a language model is a line, it has hardly any."""

    x: Axis
    y: Axis
    dots: tuple[Dot, ...]
    line: float | None
    line_name: str


def scatter(data: ReportData) -> Scatter | None:
    """Score against operations per query; None unless two methods have both."""
    found = []
    for row in data.rows:
        score, cost = row.score(data.metric), row.cost
        flops = ((cost.prefill_flops or 0) + (cost.encoder_flops or 0)) if cost else 0
        if row.role != "no-lm" and score and math.isfinite(score.low + score.high) and flops > 0:
            found.append((row, score, flops))
    if len(found) < 2:
        return None
    best = next((r for r in data.ranked() if r.role == "no-lm" and r.score(data.metric)), None)
    line = best.score(data.metric) if best else None
    x = Axis.over([flops for _, _, flops in found], log=True)
    y = Axis.over([v for _, s, _ in found for v in (s.low, s.high)] + ([line.value] if line else []))
    dots = [Dot(r, x(f), y.up(s.value), y.up(s.low), y.up(s.high), x(f) > 55) for r, s, f in found]
    return Scatter(
        x,
        y,
        tuple(_spread(dots)),
        y.up(line.value) if line and math.isfinite(line.value) else None,
        best.name if best else "",
    )


def _spread(dots: Sequence[Dot]) -> list[Dot]:
    """Give every dot a place for its label: one column per group of dots, none upon another."""
    columns: list[list[Dot]] = []
    for dot in sorted(dots, key=lambda dot: (dot.left, dot.x)):
        if columns and columns[-1][0].left == dot.left and dot.x - columns[-1][0].x < _COLUMN:
            columns[-1].append(dot)
        else:
            columns.append([dot])
    placed = []
    for column in columns:
        edge = min(dot.x for dot in column) - 3 if column[0].left else max(dot.x for dot in column) + 3
        column.sort(key=lambda dot: dot.y)
        heights = [dot.y for dot in column]
        for _ in range(100):  # neighbours that are too close push each other apart
            for i in range(len(heights) - 1):
                if (overlap := _LABEL_GAP - (heights[i + 1] - heights[i])) > 0:
                    heights[i] -= overlap / 2
                    heights[i + 1] += overlap / 2
        placed += [
            dataclasses.replace(dot, label_x=round(edge, 2), label_y=round(height, 2))
            for dot, height in zip(column, heights, strict=True)
        ]
    return placed


@dataclasses.dataclass(frozen=True)
class Line:
    """A series: its path as SVG wants it, its points, the one that is marked, an optional band around it."""

    name: str
    series: int
    path: str
    points: tuple[tuple[float, float], ...]
    marked: tuple[float, float] | None = None
    band: str = ""


@dataclasses.dataclass(frozen=True)
class Chart:
    """Lines over two axes."""

    title: str
    x: Axis
    y: Axis
    x_title: str
    lines: tuple[Line, ...]


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def learning(data: ReportData) -> list[tuple[str, list[Chart]]]:
    """By method, the charts of training loss and validation score by epoch, one line per seed."""
    methods = list(dict.fromkeys(curve.method for curve in data.curves))
    found = []
    for method in methods:
        curves = [curve for curve in data.curves if curve.method == method]
        charts = [
            _curves("Training loss", curves, [curve.loss for curve in curves], mark=False),
            _curves(f"Validation {data.primary.words}", curves, [curve.validation for curve in curves], mark=True),
        ]
        found.append((method, [chart for chart in charts if chart]))
    return found


def _curves(
    title: str, curves: Sequence[TrainingCurve], series: Sequence[tuple[Point, ...]], *, mark: bool
) -> Chart | None:
    finite = [[p for p in points if math.isfinite(p.y)] for points in series]
    if not any(finite):
        return None
    # One scale for both charts of a method, so that an epoch stands above itself.
    x = Axis.over([p.x for curve in curves for p in (*curve.loss, *curve.validation)], pad=0.03)
    y = Axis.over([p.y for points in finite for p in points], count=4)
    lines = []
    for number, (curve, points) in enumerate(zip(curves, finite, strict=True)):
        at = tuple((x(p.x), y.up(p.y)) for p in points)
        chosen = next(((x(p.x), y.up(p.y)) for p in points if mark and p.x == curve.chosen), None)
        lines.append(Line(f"seed {curve.seed}", number, _path(at), at, chosen))
    return Chart(title, x, y, "epoch", tuple(lines))


def sweeps(data: ReportData) -> list[Chart]:
    """By setting (K, H), the primary metric of each method over its values, with a band for the interval."""
    settings = dict.fromkeys(sweep.setting for sweep in data.sweeps)
    return [_sweep(data.primary, name, [s for s in data.sweeps if s.setting == name and s.points]) for name in settings]


def _sweep(info: MetricInfo, name: str, found: Sequence[Sweep]) -> Chart:
    values = sorted({point.x for sweep in found for point in sweep.points})
    # Settings are few and grow by doubling: equal steps read better than a true scale.
    step = 88 / max(len(values) - 1, 1)
    place = {value: round(50 + step * (i - (len(values) - 1) / 2), 2) for i, value in enumerate(values)}
    x = Axis(0, 1, False, tuple(Tick(place[value], f"{value:g}") for value in values))
    y = Axis.over([v for s in found for p in s.points for v in (p.interval.low, p.interval.high)])
    lines = []
    for number, sweep in enumerate(found):
        points = sorted(sweep.points, key=lambda point: point.x)
        at = tuple((place[p.x], y.up(p.interval.value)) for p in points)
        upper = [(place[p.x], y.up(p.interval.high)) for p in points]
        lower = [(place[p.x], y.up(p.interval.low)) for p in reversed(points)]
        lines.append(Line(sweep.method, number, _path(at), at, band=_path(upper + lower)))
    return Chart(f"{info.title} by {name}", x, y, name, tuple(lines))


@dataclasses.dataclass(frozen=True)
class Bubble:
    """A bin of the reliability diagram; ``radius`` in pixels, its area grows with the count."""

    x: float
    y: float
    radius: float
    text: str


def bubbles(found: Reliability) -> list[Bubble]:
    """Bins of a reliability diagram, on axes from 0 to 100%."""
    largest = max((one.count for one in found.bins), default=1)
    return [
        Bubble(
            round(100 * one.confidence, 2),
            round(100 - 100 * one.accuracy, 2),
            round(2.5 + 8 * math.sqrt(one.count / largest), 1),
            f"{one.count} predictions: stated {100 * one.confidence:.0f}%, right {100 * one.accuracy:.0f}%",
        )
        for one in found.bins
    ]
