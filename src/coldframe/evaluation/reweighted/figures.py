"""Where the marks of the page's figures go: positions in percent, as in the report's figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from coldframe.evaluation.answers.evaluate import Cell, Overall
from coldframe.evaluation.figures import Axis, Chart, Line, Tick
from coldframe.evaluation.intervals import Interval
from coldframe.evaluation.reweighted.data import SHOWN, Found, Head, Reweighted
from coldframe.evaluation.reweighted.verdict import BASE, PEAR, SYSTEMS

_LEVELS = 20  # steps of the heatmap's scale


@dataclasses.dataclass(frozen=True)
class Shade:
    """All cells of one colour: an SVG path of unit squares, the sign of their effect, how strong it is (0 to 1)."""

    path: str
    sign: str
    strength: float


@dataclasses.dataclass(frozen=True)
class HeadMap:
    """Effects by layer (rows) and head (columns).

    Attributes:
        layers: Rows.
        heads: Columns.
        top: The effect that is drawn full, on either side of 0.
        shades: The cells.
        chosen: Those with a gain.
    """

    layers: int
    heads: int
    top: float
    shades: tuple[Shade, ...]
    chosen: tuple[Head, ...]


def head_map(found: Found) -> HeadMap:
    """The effects of all heads. Cells of one colour are one path, which keeps the page small.

    Colours go with the square root of the effect: a few heads do much, and the rest would all look empty.
    """
    top = max((abs(value) for row in found.effects for value in row if math.isfinite(value)), default=0.0) or 1.0
    cells: dict[int, list[str]] = {}
    for layer, row in enumerate(found.effects):
        for head, value in enumerate(row):
            if math.isfinite(value):
                step = round(math.copysign(math.sqrt(abs(value) / top), value) * _LEVELS)
                cells.setdefault(step, []).append(f"M{head} {layer}h1v1h-1z")
    shades = tuple(
        Shade("".join(path), "below" if step < 0 else "above", abs(step) / _LEVELS)
        for step, path in sorted(cells.items())
        if step
    )
    return HeadMap(len(found.effects), len(found.effects[0]), top, shades, found.heads)


@dataclasses.dataclass(frozen=True)
class Bar:
    """One line of a forest plot."""

    name: str
    note: str
    kind: str
    low: float
    value: float
    high: float
    text: str


@dataclasses.dataclass(frozen=True)
class Bars:
    """Lines below one another on one axis; ``zero`` is the position of no difference."""

    axis: Axis
    bars: tuple[Bar, ...]
    zero: float
    title: str


def gaps(data: Reweighted, metric: str) -> Bars | None:
    """Every system's difference from the base, averaged over the sets; None without systems to compare."""
    found = [one for one in data.overall if one.against == BASE and one.metric == metric]
    if not found:
        return None
    axis = Axis.over([0.0, *(end for one in found for end in _ends(one.interval))], count=6)
    bars = tuple(_bar(axis, one, metric) for one in found)
    info = SHOWN[metric]
    return Bars(axis, bars, axis(0.0), f"{info.words}: difference from the model as it is")


def _ends(found: Interval) -> list[float]:
    return [end for end in (found.low, found.value, found.high) if math.isfinite(end)]


def _bar(axis: Axis, one: Overall, metric: str) -> Bar:
    value = one.interval.value
    low, high = (axis(end if math.isfinite(end) else value) for end in (one.interval.low, one.interval.high))
    kind = "main" if one.system == PEAR else "control" if one.system in SYSTEMS else "method"
    text = SHOWN[metric].span(one.interval, sign=True)
    return Bar(one.system, SYSTEMS.get(one.system, ""), kind, low, axis(value), high, text)


def places(data: Reweighted, name: str, marks: Sequence[int]) -> Chart | None:
    """The primary metric by place of the gold document, one line for each system; None unless it was measured."""
    found = {
        system: [cell for place in marks if (cell := data.cell(name, system, data.primary, place)) is not None]
        for system in data.systems
    }
    found = {system: row for system, row in found.items() if len(row) == len(marks)}
    if not found:
        return None
    x = Axis.over([mark + 1 for mark in marks], pad=0.05)
    x = dataclasses.replace(x, ticks=tuple(Tick(x(mark + 1), str(mark + 1)) for mark in marks))
    y = Axis.over([cell.level.value for row in found.values() for cell in row], count=4)
    lines = tuple(_places(system, i, row, x, y) for i, (system, row) in enumerate(found.items()))
    return Chart(f"{SHOWN[data.primary].title} on {name}", x, y, "place of the gold document", lines)


def _places(system: str, series: int, row: Sequence[Cell], x: Axis, y: Axis) -> Line:
    points = [(x((cell.place or 0) + 1), y.up(cell.level.value)) for cell in row]
    return _line(system, series, points)


def curves(found: Mapping[str, Sequence[Sequence[float]]]) -> Chart | None:
    """The loss of each place of a copy, one line for each system, the mean over its seeds."""
    means = {name: np.mean(np.asarray(seeds, float), axis=0) for name, seeds in found.items()}
    if not means:
        return None
    x = Axis.over([float(place) for values in means.values() for place in (2, len(values) + 1)], pad=0.02)
    y = Axis.over([float(value) for values in means.values() for value in values], count=4)
    lines = tuple(
        _line(name, i, [(x(place), y.up(float(value))) for place, value in enumerate(values, 2)])
        for i, (name, values) in enumerate(means.items())
    )
    return Chart("Loss of a copy, by place", x, y, "token of the copy", lines)


def training(found: Found) -> Chart | None:
    """The loss on held-out random sequences at every look; None if nothing was trained."""
    if not found.trained:
        return None
    looks = [(record["step"], record["validation_loss"]) for record in found.history]
    x, y = Axis.over([step for step, _ in looks], pad=0.03), Axis.over([loss for _, loss in looks], count=4)
    best = min(looks, key=lambda look: look[1])
    points = [(x(step), y.up(loss)) for step, loss in looks]
    line = dataclasses.replace(_line("held-out sequences", 0, points), marked=(x(best[0]), y.up(best[1])))
    return Chart("Loss while the gains were trained", x, y, "step", (line,))


def _line(name: str, series: int, points: Sequence[tuple[float, float]]) -> Line:
    return Line(name, series, " ".join(f"{x},{y}" for x, y in points), tuple(points))
