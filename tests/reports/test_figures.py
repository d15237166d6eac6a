"""What figures hold, and where axes put it."""

from __future__ import annotations

import math
import re

import pytest

from coldframe.reports.axes import Axis
from coldframe.reports.figures import Bar, Bubbles, Chart, Dot, Forest, Heatmap, Line, Scatter

NAN = float("nan")


def test_axes() -> None:
    axis = Axis.over([61.2, 88.9])
    assert axis(axis.low) == 0 and axis.up(axis.high) == 0 and axis.low < 61.2 and axis.high > 88.9
    assert list(axis.ticks.values()) == ["65", "70", "75", "80", "85", "90"]
    assert list(Axis.over([1e9, 2e10], log=True).ticks.values()) == ["1 G", "2 G", "5 G", "10 G", "20 G"]
    assert list(Axis.over([1.0, 1e9], log=True).ticks.values())[:3] == ["1", "100", "10 k"]
    assert list(Axis.over([5e10, 7e10], log=True).ticks.values()) == ["50 G", "60 G", "70 G", "80 G"]
    assert len(Axis.over([1e10, 1.01e10], log=True).ticks) >= 3
    for values in ([], [5.0], [0.0], [NAN], [-3.0, -2.0]):
        axis = Axis.over(values)
        assert axis.low < axis.high and len(axis.ticks) >= 2
    assert Axis.over([7.0], log=True)(7.0) == pytest.approx(50)
    assert axis.within(-math.inf) == 0 and axis.within(math.inf) == 100


def test_a_forest_holds_its_intervals_and_lines_as_far_as_the_limits_go() -> None:
    bars = [
        Bar("a", "main", 1.0, 0.5, 1.5, "1"),
        Bar("wide", "method", 1.9, -9.0, 9.0, "?"),
        Bar("none", "method", NAN, NAN, NAN, ""),
    ]
    free, limited = Forest.of("x", bars), Forest.of("x", bars, [0.0], limits=(-0.5, 2.0))
    assert free.axis.low < -9 and free.axis.high > 9
    assert -0.7 < limited.axis.low < -0.5 and 2.0 < limited.axis.high < 2.2
    assert Forest.of("x", bars[:1], holds=(0.0, 5.0)).axis.high > 5


def test_charts_leave_out_what_is_not_finite() -> None:
    line = Line("a", ((1.0, 2.0), (2.0, NAN), (3.0, 4.0)), ((1.0, 3.0), (NAN, NAN), (3.0, 5.0)))
    chart = Chart.of("up", "across", [line, Line("empty", ((1.0, NAN),))], x_values=[9.0], from_zero=True)
    assert chart is not None and [line.name for line in chart.lines] == ["a"]
    assert chart.lines[0].points == ((1.0, 2.0), (3.0, 4.0)) and chart.lines[0].band == ((1.0, 3.0), (3.0, 5.0))
    assert chart.x.high > 9 and chart.y.low < 0 and chart.y.high > 5
    assert Chart.of("up", "across", [Line("empty", ((1.0, NAN),))]) is None
    named = Chart.of("up", "across", [line], ticks={1.0: "one"})
    assert named is not None and named.x.ticks == {1.0: "one"}


def test_labels_of_a_scatter_plot_stand_beside_their_dots_and_not_upon_another() -> None:
    places = [(1e9, 60.0), (1.1e9, 60.1), (1.2e9, 60.2), (9e9, 61.0), (1e10, 60.9)]
    dots = [Dot(f"m{i}", "method", x, y, y - 1, y + 1) for i, (x, y) in enumerate(places)]
    scatter = Scatter.of("up", "across", dots, ("vote", 70.0))
    assert scatter is not None and sorted(dot.name for dot in scatter.dots) == [dot.name for dot in dots]
    for side in (False, True):
        shown = [dot for dot in scatter.dots if (dot.label[0] < scatter.x(dot.x)) == side]
        heights = sorted(dot.label[1] for dot in shown)
        assert len(shown) in (2, 3) and all(b - a > 4 for a, b in zip(heights, heights[1:], strict=False))
    assert scatter.y.high > 70 and Scatter.of("up", "across", dots[:1]) is None


def test_a_heatmap_holds_every_finite_cell_once() -> None:
    values = [[1.0, 0.31, -0.5], [0.31, 1.0, NAN], [-2.0, 0.0, 1.0]]
    heatmap = Heatmap.of("map", values, lambda value: value, ("-1", (-1.0, 1.0), "1"), [(0, 1, "hint")])
    assert (heatmap.rows, heatmap.columns, heatmap.frames) == (3, 3, ((0, 1, "hint"),))
    cells = {
        (int(y), int(x)): strength for strength, path in heatmap.shades for x, y in re.findall(r"M(\d+) (\d+)h", path)
    }
    assert cells == {(0, 0): 1, (1, 1): 1, (2, 2): 1, (0, 1): 0.3, (1, 0): 0.3, (0, 2): -0.5, (2, 0): -1}


def test_the_area_of_a_bubble_grows_with_its_count() -> None:
    bubbles = Bubbles("b", "x", ((0.5, 0.5, 100, ""), (0.9, 0.8, 25, "")))
    assert bubbles.radius(100) - 2.5 == pytest.approx(2 * (bubbles.radius(25) - 2.5))
    assert bubbles.axis(0.25) == 25 and bubbles.axis.up(1.0) == 0
