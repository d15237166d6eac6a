"""The figures of a diagnosis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from coldframe.diagnosis.evidence import Ablation, Estimate, Ladder, StoreAblation, StoreHealth, TokenVariance
from coldframe.diagnosis.outcomes import MOST, NEGLIGIBLE
from coldframe.diagnosis.subject import CONDITIONS
from coldframe.reports.figures import Bar, Chart, Forest, Heatmap, Kind, Line
from coldframe.reports.numbers import MetricInfo, percent_span

#: How a loss is written.
LOSS = MetricInfo("loss", "Loss", higher=False, decimals=3)

#: Shares beyond these are drawn at the edge, with an arrow: one wide interval must not flatten the others.
_WIDEST = (-50.0, 150.0)

#: Cosines where the scale of a heatmap may begin.
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


def ablations(evidence: StoreAblation) -> Forest:
    """Shares of the gain that every ablation loses; rises of the loss where the gain is not significant."""
    rows: list[tuple[str, Kind, Ablation, str]] = []
    for row in evidence.ablations:
        name = row.condition + (", trained again" if row.retrained else "")
        kind: Kind = "control" if row.retrained else "main" if row.condition == "swapped" else "method"
        rows.append((name, kind, row, WHAT.get(row.condition, "")))
    if any(math.isfinite(row.share.value) for row in evidence.ablations):
        return _shares((name, kind, row.share, note) for name, kind, row, note in rows)
    bars = [Bar.of(name, kind, row.rise, LOSS.span(row.rise), note=note) for name, kind, row, note in rows]
    return Forest.of("rise of the loss", bars, [0.0])


def tokens(evidence: TokenVariance) -> Forest | None:
    """Shares of the gain that are lost with other soft tokens; None where there is no gain to have shares of."""
    if math.isnan(evidence.mean_share.value):
        return None
    alone = "predicted from the query alone, without what was retrieved"
    return _shares(
        [
            ("mean token", "main", evidence.mean_share, "the average over all queries, for every query"),
            ("query's tokens", "method", evidence.predicted_share, alone),
        ]
    )


def _shares(rows: Iterable[tuple[str, Kind, Estimate, str]]) -> Forest:
    bars = [Bar.of(name, kind, share, percent_span(share), note=note, scale=100) for name, kind, share, note in rows]
    nothing, most = 100 * NEGLIGIBLE, 100 * MOST
    zones = [(-math.inf, nothing, "loss"), (most, math.inf, "gain")]
    lines, title = [nothing, most], "share of the gain that is lost, in %"
    return Forest.of(title, bars, lines, zones, holds=(0.0, 100.0), limits=_WIDEST)


def ladder(evidence: Ladder) -> Forest:
    """The ladder as a waterfall: every rung begins where the one above it ended; controls begin at the model alone."""
    bars, lines, start = [], [0.0], 0.0
    for rung in evidence.rungs:
        kind: Kind = "main" if rung.name == "full" else "method"
        name, text = RUNGS.get(rung.name, rung.name), LOSS.span(rung.gain)
        bars.append(Bar.of(name, kind, rung.gain, text, note=rung.what, start=start))
        start = rung.gain.value if math.isfinite(rung.gain.value) else start
        lines += [rung.gain.value] if kind == "main" else []
    alone = next((rung.loss.value + rung.gain.value for rung in evidence.rungs), math.nan)
    for control in evidence.controls:
        if math.isfinite(gain := alone - control.loss):
            note = "no language model"
            bars.append(Bar(control.name, "no-lm", gain, gain, gain, LOSS.show(gain), note, start=0.0))
    return Forest.of("gain over the model alone", bars, lines)


def sweeps(evidence: Ladder) -> Chart | None:
    """Validation loss over the learning rate, one line for each rung; None if nothing was swept."""
    lines = []
    for rung in evidence.rungs:
        if len(rung.sweep) > 1:
            points = tuple(sorted(rung.sweep))
            marked = next((point for point in points if point[0] == rung.learning_rate), None)
            lines.append(Line(RUNGS.get(rung.name, rung.name), points, marked=marked))
    return Chart.of("Validation loss by learning rate", "learning rate", lines, log=True)


def heatmap(similarity: Sequence[Sequence[float]]) -> tuple[Heatmap, float]:
    """The token-similarity matrix, and the cosine where its scale begins: the highest of ``_SCALES`` below them all."""
    least = min(value for row in similarity for value in row if math.isfinite(value))
    low = max((scale for scale in _SCALES if scale <= least), default=0.0)
    scale = (f"cosine {low:g}", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "1")
    title = f"Cosine between the soft tokens of {len(similarity)} queries"
    return Heatmap.of(title, similarity, lambda value: (value - low) / (1 - low), scale), low


def hubness(evidence: StoreHealth) -> Chart | None:
    """Retrieval counts, most retrieved first, beside what random retrieval would give; None without counts."""
    if len(evidence.curve) < 2:
        return None
    ranks = [rank for rank, _ in evidence.curve]
    chance = counts_by_chance(evidence.queries * evidence.k / evidence.entries, evidence.entries, ranks)
    lines = [Line("as retrieved", evidence.curve), Line("random retrieval", tuple(zip(ranks, chance, strict=True)))]
    return Chart.of("Times retrieved", "entries by rank (logarithmic)", lines, log=True, from_zero=True)


def counts_by_chance(mean: float, entries: int, ranks: Sequence[int]) -> list[int]:
    """How often the entry of each rank (from 1) is retrieved by chance: quantiles of a Poisson distribution.

    Example:
        >>> counts_by_chance(1.0, 1000, [1, 10, 300, 900])
        [6, 4, 1, 0]
    """
    counts = np.arange(int(mean + 12 * math.sqrt(mean) + 25))
    logarithms = np.log(np.maximum(counts, 1)).cumsum()
    distribution = np.exp(counts * math.log(mean) - mean - logarithms).cumsum()
    levels = 1 - (np.asarray(ranks) - 0.5) / entries
    return [int(count) for count in np.searchsorted(distribution, levels)]
