"""What a comparison shows, in words."""

from __future__ import annotations

import dataclasses
import math

from coldframe.evaluation.compare import Difference
from coldframe.evaluation.report_data import MethodRow, ReportData
from coldframe.reports.numbers import Outcome, plural

#: A test that cannot show a difference of this many points is called too small.
COARSE = 5.0
#: With fewer seeds of a trained method a gain or a loss is told with a remark.
CLAIM_SEEDS = 5
#: With fewer rows nothing is concluded, whatever the intervals say: they are no intervals then.
FEWEST = 30


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The main method against another one: its name, the outcome by the interval, and a sentence."""

    name: str
    outcome: Outcome
    text: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a comparison shows.

    Attributes:
        outcome: Against the best control without a language model; None if there is none.
        headline: The first sentence of the report.
        comparisons: One per other method: controls without a language model first, the best of each kind first.
        too_few: A sentence if the test is too small to tell methods apart, else empty.
        few_seeds: A sentence if the headline claims something that fewer than five seeds carry, else empty.
    """

    outcome: Outcome | None
    headline: str
    comparisons: tuple[Comparison, ...]
    too_few: str
    few_seeds: str


def verdict(data: ReportData) -> Verdict:
    """Whether the language model earns its place, against the best control without one.

    Gain and loss need a paired 95% interval that excludes zero; everything else is undecided, however large the
    difference looks, and so is what fewer than 30 rows show. The best control is the best on the test rows, which
    favours the control.

    Where answers are written there are no controls without a language model. The rival is then the main method's own
    best control (``"MAIN, swapped store"``), which tells whether what is retrieved matters.
    """
    others = [row for row in data.ranked() if row.name != data.main and row.difference and row.score(data.metric)]
    defined = [row for row in others if row.difference and math.isfinite(row.difference.value)]
    rivals = [] if data.main_row.role == "no-lm" else [row for row in defined if row.role == "no-lm"]
    if not rivals and data.kind == "generation":
        rivals = [row for row in defined if row.role == "control" and row.name.startswith(f"{data.main}, ")]
    others.sort(key=lambda row: row not in rivals)  # stable: best first within both groups
    comparisons = tuple(_comparison(data, row, row.difference) for row in others if row.difference)
    best = rivals[0] if rivals else None
    first = comparisons[0].outcome if best else None
    headline, remarks = _headline(data, best, first), (_too_few(data, others), _few_seeds(data, best, first))
    return Verdict(first, headline, comparisons, *remarks)


def _comparison(data: ReportData, row: MethodRow, difference: Difference) -> Comparison:
    info, outcome = data.primary, _outcome(data, difference)
    if not math.isfinite(difference.value):
        return Comparison(row.name, outcome, f"Not compared with {row.name}: {info.words} is not defined for both.")
    words = {"gain": "Better than", "loss": "Worse than", "undecided": "Cannot be told from"}[outcome]
    rows = f" ({_on_rows(difference.n)})" if _is_sample(data, difference) else ""
    return Comparison(row.name, outcome, f"{words} {row.name}: {info.span(difference, sign=True)}{rows}.")


def _outcome(data: ReportData, difference: Difference) -> Outcome:
    return data.primary.outcome(difference) if difference.n >= FEWEST else "undecided"


def _is_sample(data: ReportData, difference: Difference) -> bool:
    """Whether a difference is of fewer rows than the main method's score."""
    own = data.main_row.score(data.metric)
    return own is not None and difference.n != own.n


def _on_rows(n: int) -> str:
    return f"on {plural(n, 'row')} that both answered"


def _headline(data: ReportData, best: MethodRow | None, outcome: Outcome | None) -> str:
    info, main = data.primary, data.main_row
    own = main.score(data.metric)
    if own is None or not math.isfinite(own.value):
        return f"{info.title} of {main.name} is not defined on {data.task}, so nothing is concluded."
    scored = f"{info.words} {info.span(own)} on {data.task} (n = {own.n}, {plural(own.seeds, 'seed')})"
    if main.role == "no-lm":
        return f"{main.name}, which uses no language model, reaches {scored}."
    if best is None or best.difference is None:
        if any(row.role == "no-lm" for row in data.rows):
            return f"{main.name} reaches {scored}; the scores of its controls are not defined, so nothing is concluded."
        if data.kind == "generation":
            return f"{main.name} reaches {scored}; none of its controls was run, so it is open what retrieval adds."
        return (
            f"{main.name} reaches {scored}; no control without a language model was run, "
            "so it is open whether the model earned its place."
        )
    without_model = best.role == "no-lm"
    n, theirs, span = best.difference.n, best.score(data.metric), info.span(best.difference, sign=True)
    if n < FEWEST:
        return f"{main.name} reaches {scored}; {plural(n, 'row')} are too few to conclude anything (at least {FEWEST})."
    rival = f"{best.name} ({info.show(theirs.value)})" if theirs else best.name
    span += f" {_on_rows(n)}" if _is_sample(data, best.difference) else ""
    what = "control without a language model" if without_model else "of its own controls"
    if outcome == "gain":
        return f"{main.name} reaches {scored}: {span} against {rival}, the best {what}."
    if outcome == "undecided":
        return (
            f"{main.name} does not beat the best {what}, {rival}: it reaches {scored}, a difference of {span}, "
            f"and {n} rows cannot tell these apart."
        )
    facts = f"{main.name} reaches {scored}, a difference of {span}"
    if not without_model:
        return f"What {main.name} retrieves does not help here: {rival} beats it; {facts}."
    better = _better_models(data, best)
    if better is None:
        return f"The language model does not earn its place here: {rival} beats {main.name} without one; {facts}."
    score = better.score(data.metric)
    shown = f"{info.show(score.value)}, n = {score.n}" if score else ""
    return (
        f"{main.name} does not earn its place here: {rival} beats it without a language model; {facts}. "
        f"Another method with the model scores higher than that control: {better.name} ({shown})."
    )


def _better_models(data: ReportData, rival: MethodRow) -> MethodRow | None:
    """The best other method with a language model, if it scores higher than a control without one."""
    ranked = data.ranked()
    ahead = ranked[: ranked.index(rival)]
    return next((row for row in ahead if row.role == "method" and row.name != data.main), None)


def _few_seeds(data: ReportData, rival: MethodRow | None, outcome: Outcome | None) -> str:
    """A remark on a gain or a loss; a method of which no other seed can come out needs no further seeds."""
    own = data.main_row.score(data.metric)
    trained = any(curve.method == data.main for curve in data.curves)
    if own is None or rival is None or outcome not in ("gain", "loss") or own.seeds >= CLAIM_SEEDS:
        return ""
    if own.seeds == 1 and not trained:
        return ""
    return (
        f"Few seeds: {plural(own.seeds, 'seed')} of {data.main} {'carries' if own.seeds == 1 else 'carry'} this "
        f"sentence. A claim needs at least {CLAIM_SEEDS} (--seeds 0 1 2 3 4)."
    )


def _too_few(data: ReportData, others: list[MethodRow]) -> str:
    compared = [(row.difference, row.name) for row in others if row.difference]
    undecided = [(d, name) for d, name in compared if math.isfinite(d.smallest) and _outcome(data, d) == "undecided"]
    if not undecided:
        return ""
    # A method may have answered a sample of the rows: the rows are those of the comparison that tells least.
    coarsest, name = max(undecided, key=lambda pair: pair[0].smallest)
    n, smallest = coarsest.n, coarsest.smallest
    small = f"{name} answered only a sample" if _is_sample(data, coarsest) else "The test is small"
    if n < FEWEST:
        return f"{small}: {plural(n, 'row')} tell nothing apart. At least {FEWEST} are needed."
    # Metrics shown with one decimal are in points of 100, the others are shares of 1.
    points = smallest if data.primary.decimals <= 1 else 100 * smallest
    if points <= COARSE:
        return ""
    return (
        f"{small}: with {plural(n, 'row')} a true difference of {data.primary.show(smallest)} is found four "
        "times out of five, a smaller one less often. What cannot be told apart here may still differ."
    )
