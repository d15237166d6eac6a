"""Where the marks of a diagnosis' figures go: positions in percent of the drawing area, as in the report's figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from coldframe.diagnosis.advice import percent
from coldframe.diagnosis.evidence import Estimate, Ladder, StoreAblation, StoreHealth, TokenVariance
from coldframe.diagnosis.subject import CONDITIONS
from coldframe.diagnosis.verdict import MOST, NEGLIGIBLE
from coldframe.evaluation.figures import Axis, Chart, Line
from coldframe.evaluation.report_data import MetricInfo

#: How a loss is written.
LOSS = MetricInfo("loss", "Loss", higher=False, decimals=3)

#: Shares beyond these are drawn at the edge, with an arrow: one wide interval must not flatten the others.
_WIDEST = (-0.5, 1.5)

#: Steps of the heatmap's scale, and the cosines where it may begin.
_LEVELS = 20
_SCALES = (0.0, 0.5, 0.9)

#: What each condition puts in the place of what was retrieved; evidence may name others.
WHAT: dict[str, str] = {str(name): what for name, what in CONDITIONS.items()}

#: Names of the ladder's rungs for readers.
RUNGS = {
    "prompt-tuning": "static prompt",
    "reparameterised": "static prompt through a network",
    "constant": "same query and entries for all",
    "query-only": "query alone",
    "full": "query and what was retrieved",
}


@dataclasses.dataclass(frozen=True)
class Bar:
    """One line of a forest plot, or of the ladder.

    Attributes:
        name: What it is.
        note: What that means, in a few words.
        kind: ``"main"``, ``"method"``, ``"control"`` or ``"no-lm"``, as in the report.
        low: Lower end of the interval.
        value: The value; None where there is none to draw.
        high: Upper end.
        text: What is written beside it.
        cut: Whether the lower, and the upper end is beyond the axis.
        start: Where a step of the ladder begins; None for a forest plot.
    """

    name: str
    note: str
    kind: str
    low: float
    value: float | None
    high: float
    text: str
    cut: tuple[bool, bool] = (False, False)
    start: float | None = None


@dataclasses.dataclass(frozen=True)
class Bars:
    """Lines below one another on one axis.

    Attributes:
        axis: For all of them.
        bars: From the top.
        lines: Positions of the lines across all.
        zones: The part of the axis that counts as nothing, and the part that counts as most; empty without shares.
        title: What the axis counts.
    """

    axis: Axis
    bars: tuple[Bar, ...]
    lines: tuple[float, ...]
    zones: tuple[tuple[float, float], ...]
    title: str


def ablations(found: StoreAblation) -> Bars:
    """Shares of the gain that every ablation loses; where the gain is not significant the losses' rises instead."""
    rows = [
        (
            one.condition + (", trained again" if one.retrained else ""),
            "main" if one.condition == "swapped" and not one.retrained else "control" if one.retrained else "method",
            one,
        )
        for one in found.ablations
    ]
    if any(math.isfinite(one.share.value) for *_, one in rows):
        return _shares((name, kind, one.share, WHAT.get(one.condition, "")) for name, kind, one in rows)
    axis = Axis.over([0.0, *(end for *_, one in rows for end in (one.rise.low, one.rise.high))], count=6)
    bars = tuple(
        _bar(axis, name, kind, one.rise, LOSS.span(one.rise), note=WHAT.get(one.condition, ""))
        for name, kind, one in rows
    )
    return Bars(axis, bars, (axis(0.0),), (), "rise of the loss")


def tokens(found: TokenVariance) -> Bars | None:
    """Shares of the gain that are lost with other soft tokens; None where there is no gain to have shares of."""
    if math.isnan(found.mean_share.value):
        return None
    return _shares(
        [
            ("mean token", "main", found.mean_share, "the average over all queries, for every query"),
            (
                "query's tokens",
                "method",
                found.predicted_share,
                "predicted from the query alone, without what was retrieved",
            ),
        ]
    )


def _shares(found: Iterable[tuple[str, str, Estimate, str]]) -> Bars:
    rows = list(found)
    ends = [end for _, _, share, _ in rows for end in (share.low, share.value, share.high) if math.isfinite(end)]
    low, high = max(min([0.0, *ends]), _WIDEST[0]), min(max([1.0, *ends]), _WIDEST[1])
    axis = Axis.over([100 * low, 100 * high], count=6, pad=0.03)
    bars = tuple(
        _bar(axis, name, kind, share, percent(share), note=note, scale=100) for name, kind, share, note in rows
    )
    nothing, most = axis(100 * NEGLIGIBLE), axis(100 * MOST)
    return Bars(axis, bars, (nothing, most), ((0.0, nothing), (most, 100.0)), "share of the gain that is lost, in %")


def _bar(axis: Axis, name: str, kind: str, found: Estimate, text: str, *, note: str = "", scale: float = 1) -> Bar:
    if not math.isfinite(found.value):
        return Bar(name, note, kind, 0.0, None, 0.0, "not defined")
    ends = [scale * (end if math.isfinite(end) else found.value) for end in (found.low, found.value, found.high)]
    low, value, high = (min(max(axis(end), 0.0), 100.0) for end in ends)
    return Bar(name, note, kind, low, value, high, text, (ends[0] < axis.low, ends[2] > axis.high))


def ladder(found: Ladder) -> Bars:
    """The ladder as a waterfall: every rung begins where the one above it ended, and has its own interval.

    Below the rungs stand the controls without a language model, where they give probabilities; each begins at
    the model alone.
    """
    alone = next((r.loss.value + r.gain.value for r in found.rungs), math.nan)
    controls = [(one, alone - one.loss) for one in found.controls if math.isfinite(one.loss)]
    ends = [end for rung in found.rungs for end in (rung.gain.low, rung.gain.value, rung.gain.high)]
    axis = Axis.over([0.0, *ends, *(gain for _, gain in controls)], count=6)
    bars, start = [], axis(0.0)
    for rung in found.rungs:
        kind = "main" if rung.name == "full" else "method"
        name = RUNGS.get(rung.name, rung.name)
        bar = _bar(axis, name, kind, rung.gain, LOSS.span(rung.gain), note=rung.what)
        bars.append(dataclasses.replace(bar, start=start))
        start = start if bar.value is None else bar.value
    for one, gain in controls:
        exact = Estimate(gain, gain, gain)
        bar = _bar(axis, one.name, "no-lm", exact, LOSS.show(gain), note="no language model")
        bars.append(dataclasses.replace(bar, start=axis(0.0)))
    full = next((axis(rung.gain.value) for rung in found.rungs if rung.name == "full"), None)
    lines = (axis(0.0),) if full is None else (axis(0.0), full)
    return Bars(axis, tuple(bars), lines, (), "gain over the model alone")


def sweeps(found: Ladder) -> Chart | None:
    """Validation loss over the learning rate, one line per rung; None if nothing was swept."""
    swept = [rung for rung in found.rungs if len(rung.sweep) > 1]
    if not swept:
        return None
    x = Axis.over([rate for rung in swept for rate, _ in rung.sweep], log=True)
    y = Axis.over([loss for rung in swept for _, loss in rung.sweep], count=4)
    lines = []
    for number, rung in enumerate(swept):
        points = {rate: (x(rate), y.up(loss)) for rate, loss in sorted(rung.sweep) if math.isfinite(loss)}
        lines.append(_line(RUNGS.get(rung.name, rung.name), number, points.values(), points.get(rung.learning_rate)))
    return Chart("Validation loss by learning rate", x, y, "learning rate", tuple(lines))


def _line(
    name: str, series: int, points: Iterable[tuple[float, float]], marked: tuple[float, float] | None = None
) -> Line:
    at = tuple(points)
    return Line(name, series, " ".join(f"{x},{y}" for x, y in at), at, marked)


@dataclasses.dataclass(frozen=True)
class Level:
    """All cells of the heatmap that have one colour: an SVG path of unit squares, its sign and how strong it is."""

    path: str
    sign: str
    strength: float


@dataclasses.dataclass(frozen=True)
class Heatmap:
    """Cosines between queries' tokens.

    Attributes:
        size: Queries.
        low: The cosine that is drawn empty; 1 is drawn full, and what is negative in another colour.
        levels: The cells.
    """

    size: int
    low: float
    levels: tuple[Level, ...]


def heatmap(similarity: Sequence[Sequence[float]]) -> Heatmap | None:
    """The token-similarity matrix, its scale from the highest of ``_SCALES`` that holds all cosines.

    Cells of one level are one path, which keeps the page small. None for fewer than two queries.
    """
    if len(similarity) < 2:
        return None
    least = min(value for row in similarity for value in row if math.isfinite(value))
    low = max((scale for scale in _SCALES if scale <= least), default=0.0)
    cells: dict[int, list[str]] = {}
    for row, values in enumerate(similarity):
        for column, value in enumerate(values):
            if math.isfinite(value):
                level = round(min(max((value - low) / (1 - low), -1.0), 1.0) * _LEVELS)
                cells.setdefault(level, []).append(f"M{column} {row}h1v1h-1z")
    levels = tuple(
        Level("".join(found), "below" if level < 0 else "above", abs(level) / _LEVELS)
        for level, found in sorted(cells.items())
        if level
    )
    return Heatmap(len(similarity), low, levels)


def hubness(found: StoreHealth) -> Chart | None:
    """Retrieval counts, most retrieved first, beside what random retrieval would give; None without counts."""
    if len(found.curve) < 2:
        return None
    ranks, counts = [rank for rank, _ in found.curve], [count for _, count in found.curve]
    chance = counts_by_chance(found.queries * found.k / found.entries, found.entries, ranks)
    x, y = Axis.over(ranks, log=True), Axis.over([0, *counts, *chance], count=4, pad=0.02)
    lines = tuple(
        _line(name, series, ((x(rank), y.up(value)) for rank, value in zip(ranks, values, strict=True)))
        for series, (name, values) in enumerate((("as retrieved", counts), ("random retrieval", chance)))
    )
    return Chart("Times retrieved", x, y, "entries by rank (logarithmic)", lines)


def counts_by_chance(mean: float, entries: int, ranks: Sequence[int]) -> list[int]:
    """How often the entry of each rank is retrieved if retrieval is random: quantiles of a Poisson distribution.

    Args:
        mean: Retrievals per entry.
        entries: In the store.
        ranks: From 1, most retrieved first.

    Example:
        >>> counts_by_chance(1.0, 1000, [1, 10, 300, 900])
        [6, 4, 1, 0]
    """
    counts = np.arange(int(mean + 12 * math.sqrt(mean) + 25))
    logarithms = np.log(np.maximum(counts, 1)).cumsum()
    distribution = np.exp(counts * math.log(mean) - mean - logarithms).cumsum()
    levels = 1 - (np.asarray(ranks) - 0.5) / entries
    return [int(count) for count in np.searchsorted(distribution, levels)]
