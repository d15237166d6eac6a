"""What a comparison shows, in words."""

from __future__ import annotations

import dataclasses

from coldframe.evaluation.report_data import MethodRow, ReportData
from coldframe.reports.numbers import Outcome, plural

#: A test that cannot show a difference of this many points is called too small.
COARSE = 5.0


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
    """

    outcome: Outcome | None
    headline: str
    comparisons: tuple[Comparison, ...]
    too_few: str


def verdict(data: ReportData) -> Verdict:
    """Whether the language model earns its place, against the best control without one.

    Gain and loss need a paired 95% interval that excludes zero; everything else is undecided, however large the
    difference looks. The best control is the best on the test rows, which favours the control.

    Where answers are written there are no controls without a language model. The rival is then the main method's own
    best control (``"MAIN, swapped store"``), which tells whether what is retrieved matters.
    """
    others = [row for row in data.ranked() if row.name != data.main and row.difference and row.score(data.metric)]
    rivals = [row for row in others if row.role == "no-lm"]
    if not rivals and data.kind == "generation":
        rivals = [row for row in others if row.role == "control" and row.name.startswith(f"{data.main}, ")]
    others.sort(key=lambda row: row not in rivals)  # stable: best first within both groups
    words = {"gain": "Better than", "loss": "Worse than", "undecided": "Cannot be told from"}
    comparisons = []
    for row in others:
        if row.difference:
            outcome, span = data.primary.outcome(row.difference), data.primary.span(row.difference, sign=True)
            comparisons.append(Comparison(row.name, outcome, f"{words[outcome]} {row.name}: {span}."))
    best = rivals[0] if rivals else None
    first = comparisons[0].outcome if best else None
    return Verdict(first, _headline(data, best, first), tuple(comparisons), _too_few(data, others))


def _headline(data: ReportData, best: MethodRow | None, outcome: Outcome | None) -> str:
    info, main = data.primary, data.main_row
    own = main.score(data.metric)
    scored = f"{info.words} {info.span(own)} on {data.task} (n = {own.n}, {plural(own.seeds, 'seed')})" if own else ""
    if best is None or best.difference is None:
        if main.role == "no-lm":
            return f"{main.name}, which uses no language model, reaches {scored}."
        if data.kind == "generation":
            return f"{main.name} reaches {scored}; none of its controls was run, so it is open what retrieval adds."
        return (
            f"{main.name} reaches {scored}; no control without a language model was run, "
            "so it is open whether the model earned its place."
        )
    theirs, span = best.score(data.metric), info.span(best.difference, sign=True)
    rival = f"{best.name} ({info.show(theirs.value)})" if theirs else best.name
    what = "control without a language model" if best.role == "no-lm" else "of its own controls"
    if outcome == "gain":
        return f"{main.name} reaches {scored}: {span} against {rival}, the best {what}."
    if outcome == "undecided":
        return (
            f"{main.name} does not beat the best {what}, {rival}: it reaches {scored}, a difference of {span}, and "
            f"{best.difference.n} rows cannot tell these apart."
        )
    finding = "The language model does not earn its place" if best.role == "no-lm" else "Retrieval does not help"
    without = " without one" if best.role == "no-lm" else ""
    return f"{finding} here: {rival} beats {main.name}{without}; {main.name} reaches {scored}, a difference of {span}."


def _too_few(data: ReportData, others: list[MethodRow]) -> str:
    differences = [row.difference for row in others if row.difference]
    undecided = [difference for difference in differences if data.primary.outcome(difference) == "undecided"]
    if not undecided:
        return ""
    # A method may have answered a sample of the rows: the rows are those of the comparison that tells least.
    coarsest = max(undecided, key=lambda difference: difference.smallest)
    n, smallest = coarsest.n, coarsest.smallest
    # Metrics shown with one decimal are in points of 100, the others are shares of 1.
    points = smallest if data.primary.decimals <= 1 else 100 * smallest
    if points <= COARSE:
        return ""
    return (
        f"The test is small: with {n} rows a true difference of {data.primary.show(smallest)} is found four times "
        "out of five, a smaller one less often. What cannot be told apart here may still differ."
    )
