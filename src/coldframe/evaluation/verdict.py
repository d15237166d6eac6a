"""What a comparison allows to say, in words."""

from __future__ import annotations

import dataclasses
from typing import Literal

from coldframe.evaluation.compare import Difference
from coldframe.evaluation.report_data import MethodRow, ReportData

Outcome = Literal["gain", "loss", "undecided"]

#: A test that cannot show a difference of this many points is called too small.
COARSE = 5.0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The main method against one other.

    Attributes:
        name: The other.
        outcome: ``"gain"`` or ``"loss"`` if the interval excludes zero.
        text: A sentence.
    """

    name: str
    outcome: Outcome
    text: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a comparison allows to say.

    Attributes:
        outcome: Against the best control without a language model; None if there is none.
        headline: One sentence, the first of the report.
        comparisons: One per other method, controls without a language model first, best first.
        too_few: A sentence when the test is too small to tell some of them apart, else empty.
    """

    outcome: Outcome | None
    headline: str
    comparisons: tuple[Comparison, ...]
    too_few: str


def verdict(data: ReportData) -> Verdict:
    """Read a comparison: did the language model earn its place, and against whom.

    Gain and loss need a paired 95% interval that excludes zero; everything else is undecided, however large
    the difference looks. The best control is the best on the test rows themselves, which favours the control.
    """
    others = [row for row in data.ranked() if row.name != data.main and row.difference and row.score(data.metric)]
    others.sort(key=lambda row: row.role != "no-lm")  # stable: best first within both groups
    comparisons = tuple(_comparison(data, row, row.difference) for row in others if row.difference)
    best = others[0] if others and others[0].role == "no-lm" else None
    outcome = comparisons[0].outcome if best else None
    return Verdict(outcome, _headline(data, best, outcome), comparisons, _too_few(data, others))


def _outcome(data: ReportData, difference: Difference) -> Outcome:
    if not difference.excludes_zero:
        return "undecided"
    return "gain" if (difference.value > 0) == data.primary.higher else "loss"


def _comparison(data: ReportData, row: MethodRow, difference: Difference) -> Comparison:
    outcome, span = _outcome(data, difference), data.primary.span(difference, sign=True)
    words = {"gain": "better than", "loss": "worse than", "undecided": "cannot be told from"}
    return Comparison(row.name, outcome, f"{words[outcome].capitalize()} {row.name}: {span}.")


def _headline(data: ReportData, best: MethodRow | None, outcome: Outcome | None) -> str:
    info, main = data.primary, data.main_row
    own = main.score(data.metric)
    scored = f"{info.words} {info.span(own)} on {data.task} (n = {own.n}, {_seeds(own.seeds)})" if own else ""
    if best is None or best.difference is None:
        if main.role == "no-lm":
            return f"{main.name}, which uses no language model, reaches {scored}."
        return (
            f"{main.name} reaches {scored}; no control without a language model was run, "
            "so it is open whether the model earned its place."
        )
    theirs = best.score(data.metric)
    rival = f"{best.name} ({info.show(theirs.value)})" if theirs else best.name
    span = info.span(best.difference, sign=True)
    if outcome == "gain":
        return f"{main.name} reaches {scored}: {span} against {rival}, the best control without a language model."
    if outcome == "loss":
        return (
            f"The language model does not earn its place here: {rival} beats {main.name} without one; "
            f"{main.name} reaches {scored}, a difference of {span}."
        )
    return (
        f"{main.name} does not beat the best control without a language model, {rival}: it reaches {scored}, "
        f"a difference of {span}, and {best.difference.n} rows cannot tell these apart."
    )


def _too_few(data: ReportData, others: list[MethodRow]) -> str:
    open_ones = [row.difference for row in others if row.difference and _outcome(data, row.difference) == "undecided"]
    smallest = max((difference.smallest for difference in open_ones), default=0.0)
    # Metrics shown with one decimal are in points of 100, the others are shares of 1.
    points = smallest if data.primary.decimals <= 1 else 100 * smallest
    if points <= COARSE:
        return ""
    n = max(difference.n for difference in open_ones)
    return (
        f"The test is small: with {n} rows a true difference of {data.primary.show(smallest)} is found four times "
        "out of five, a smaller one less often. What cannot be told apart here may still differ."
    )


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"
