"""Figures as plain data: what is drawn, in the data's own units, and the axes; templates put the marks in place."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from coldframe.reports.axes import Axis
from coldframe.reports.numbers import Ranged

#: What a mark stands for: what the report is about, another method, a control, a control without a language model.
Kind = Literal["main", "method", "control", "no-lm"]
XY: TypeAlias = tuple[float, float]

#: Steps of a heatmap's scale.
_LEVELS = 20
#: Least distance between two labels of a scatter plot, in percent of its height.
_LABEL_GAP = 5.2
#: Dots closer than this share one column of labels, in percent of its width.
_COLUMN = 12.0
#: Width of a letter of a label where a page is narrow, in percent of the width.
_LETTER = 1.9


@dataclasses.dataclass(frozen=True)
class Bar:
    """A line of a forest plot.

    Attributes:
        name: What it is.
        kind: What it stands for.
        value: Where the dot is; NaN draws nothing.
        low: Lower end of the interval.
        high: Upper end.
        text: What is written beside it.
        note: What the name means, in a few words.
        points: Small rings, such as single seeds.
        start: Where a bar to the value begins; None draws no bar.
    """

    name: str
    kind: Kind
    value: float
    low: float
    high: float
    text: str
    note: str = ""
    points: tuple[float, ...] = ()
    start: float | None = None

    @classmethod
    def of(cls, name: str, kind: Kind, interval: Ranged, text: str, *, scale: float = 1, **more: Any) -> Bar:
        """From an interval; an end that is not defined is taken to be the value."""
        ends = [x if math.isfinite(x) else interval.value for x in (interval.value, interval.low, interval.high)]
        value, low, high = (scale * x for x in ends)
        return cls(name, kind, value, low, high, text if math.isfinite(value) else "not defined", **more)


@dataclasses.dataclass(frozen=True)
class Forest:
    """Values with intervals below one another, dashed lines across them, coloured zones of the axis (from, to, tone).

    What lies beyond the axis is drawn at its end, with an arrow.
    """

    title: str
    axis: Axis
    bars: tuple[Bar, ...]
    lines: tuple[float, ...]
    zones: tuple[tuple[float, float, str], ...]

    @classmethod
    def of(
        cls,
        title: str,
        bars: Iterable[Bar],
        lines: Sequence[float] = (),
        zones: Sequence[tuple[float, float, str]] = (),
        *,
        holds: Sequence[float] = (),
        limits: XY = (-math.inf, math.inf),
    ) -> Forest:
        """With an axis for all intervals, lines and the values that it ``holds``, as far as the limits go."""
        bars = tuple(bars)
        ends = [*lines, *holds, *(x for bar in bars for x in (bar.low, bar.value, bar.high, *bar.points))]
        axis = Axis.over([min(max(x, limits[0]), limits[1]) for x in ends if math.isfinite(x)], count=6)
        return cls(title, axis, bars, tuple(lines), tuple(zones))


@dataclasses.dataclass(frozen=True)
class Line:
    """A series of points from the left, with the ends of a band at each and one that has a ring, if there are any."""

    name: str
    points: tuple[XY, ...]
    band: tuple[XY, ...] = ()
    marked: XY | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
    """Lines over two axes."""

    title: str
    x_title: str
    lines: tuple[Line, ...]
    x: Axis
    y: Axis

    @classmethod
    def of(
        cls,
        title: str,
        x_title: str,
        lines: Iterable[Line],
        *,
        log: bool = False,
        x_values: Iterable[float] = (),
        ticks: Mapping[float, str] | None = None,
        from_zero: bool = False,
    ) -> Chart | None:
        """With axes that hold all finite points; None if there are none.

        Args:
            title: Of the vertical axis.
            x_title: Of the horizontal axis.
            lines: The series.
            log: Whether the horizontal axis is logarithmic.
            x_values: Further values that it must hold.
            ticks: On it, instead of round numbers.
            from_zero: Whether the vertical axis begins at 0.
        """
        shown = tuple(line for line in map(_finite, lines) if line.points)
        if not shown:
            return None
        x = Axis.over([*x_values, *(x for line in shown for x, _ in line.points)], log=log, pad=0.03)
        ends = [y for line in shown for y in (*(y for _, y in line.points), *itertools.chain(*line.band))]
        y = Axis.over([*ends, *([0.0] if from_zero else [])], count=4)
        return cls(title, x_title, shown, x if ticks is None else dataclasses.replace(x, ticks=ticks), y)


def _finite(line: Line) -> Line:
    finite = [all(map(math.isfinite, point)) for point in line.points]
    points, band = (tuple(itertools.compress(pairs, finite)) for pairs in (line.points, line.band))
    return dataclasses.replace(line, points=points, band=band)


@dataclasses.dataclass(frozen=True)
class Dot:
    """A named point of a scatter plot with its interval upwards, and where its label stands, in percent."""

    name: str
    kind: Kind
    x: float
    value: float
    low: float
    high: float
    label: XY = (0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Scatter:
    """Named points over two axes, the one across logarithmic; a dashed line, with its name, for what has no place."""

    title: str
    x_title: str
    dots: tuple[Dot, ...]
    line: tuple[str, float] | None
    x: Axis
    y: Axis

    @classmethod
    def of(cls, title: str, x_title: str, dots: Sequence[Dot], line: tuple[str, float] | None = None) -> Scatter | None:
        """With axes that hold all intervals, every label beside its dot; None for fewer than two dots."""
        if len(dots) < 2:
            return None
        x = Axis.over([dot.x for dot in dots], log=True)
        y = Axis.over([v for dot in dots for v in (dot.low, dot.high)] + ([] if line is None else [line[1]]))
        return cls(title, x_title, tuple(_labelled(dots, x, y)), line, x, y)


def _labelled(dots: Sequence[Dot], x: Axis, y: Axis) -> Iterable[Dot]:
    """Every dot with a place for its label: those of near dots in one column, none upon another."""
    columns: list[list[Dot]] = []
    for dot in sorted(dots, key=lambda dot: (x(dot.x) > 55, dot.x)):
        first = x(columns[-1][0].x) if columns else -math.inf
        if (first > 55) == (x(dot.x) > 55) and x(dot.x) - first < _COLUMN:
            columns[-1].append(dot)
        else:
            columns.append([dot])
    labels: list[_Label] = []
    for column in columns:
        places = sorted(x(dot.x) for dot in column)
        edge = places[0] - 3 if places[0] > 55 else places[-1] + 3
        labels += [_Label(dot, edge, y.up(dot.value), places[0] > 55) for dot in column]
    labels.sort(key=lambda label: label.height)
    for _ in range(200):  # labels that are too close push each other apart
        for above, below in itertools.combinations(labels, 2):
            overlap = _LABEL_GAP - (below.height - above.height)
            if overlap > 0 and above.beside(below):
                above.height, below.height = above.height - overlap / 2, below.height + overlap / 2
    for label in labels:
        yield dataclasses.replace(label.dot, label=(round(label.edge, 2), round(label.height, 2)))


@dataclasses.dataclass
class _Label:
    """A name beside its dot; places in percent, widths as on a phone, where they are the largest."""

    dot: Dot
    edge: float
    height: float
    leftwards: bool

    def beside(self, other: _Label) -> bool:
        """Whether the two stand over the same stretch of the axis across."""
        return self._span()[0] < other._span()[1] and other._span()[0] < self._span()[1]

    def _span(self) -> tuple[float, float]:
        width = _LETTER * len(self.dot.name)
        return (self.edge - width, self.edge) if self.leftwards else (self.edge, self.edge + width)


@dataclasses.dataclass(frozen=True)
class Heatmap:
    """A matrix of values as colours.

    Attributes:
        title: What it shows.
        rows: Their number.
        columns: Their number.
        shades: Strength, -1 to 1, and SVG path of all cells that have it: a path for many cells keeps the page small.
        scale: Words at the lower end, strengths to show, words at the upper end.
        frames: Cells in a frame: row, column and what is shown under the pointer.
    """

    title: str
    rows: int
    columns: int
    shades: tuple[tuple[float, str], ...]
    scale: tuple[str, tuple[float, ...], str]
    frames: tuple[tuple[int, int, str], ...]

    @property
    def one_colour(self) -> bool:
        """Whether all cells look alike, so that a sentence says as much."""
        cells = self.rows * self.columns
        return not self.shades or (len(self.shades) == 1 and self.shades[0][1].count("M") == cells)

    @classmethod
    def of(
        cls,
        title: str,
        matrix: Sequence[Sequence[float]],
        strength: Callable[[float], float],
        scale: tuple[str, tuple[float, ...], str],
        frames: Iterable[tuple[int, int, str]] = (),
    ) -> Heatmap:
        """From values and how strong each is, -1 to 1; those that are not finite stay empty."""
        paths: dict[int, str] = {}
        for row, values in enumerate(matrix):
            for column, value in enumerate(values):
                if math.isfinite(value):
                    level = round(min(max(strength(value), -1.0), 1.0) * _LEVELS)
                    paths[level] = f"{paths.get(level, '')}M{column} {row}h1v1h-1z"
        shades = tuple((level / _LEVELS, path) for level, path in sorted(paths.items()) if level)
        return cls(title, len(matrix), len(matrix[0]), shades, scale, tuple(frames))


@dataclasses.dataclass(frozen=True)
class Bubbles:
    """Points ``(x, y, count, hint)`` in a square from 0 to 1 with its diagonal; the area of a bubble is its count."""

    title: str
    x_title: str
    points: tuple[tuple[float, float, int, str], ...]

    @property
    def axis(self) -> Axis:
        """In percent, both across and up."""
        return Axis(0, 1, False, {quarter / 4: str(25 * quarter) for quarter in range(5)})

    def radius(self, count: int) -> float:
        """Of a bubble, in pixels."""
        return round(2.5 + 8 * math.sqrt(count / max(count for _, _, count, _ in self.points)), 1)


Drawing: TypeAlias = Forest | Chart | Scatter | Heatmap | Bubbles
