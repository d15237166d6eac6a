"""What the measurements on a reweighted model allow to say, by what intervals exclude."""

from __future__ import annotations

import dataclasses

from coldframe.evaluation import head_gains
from coldframe.reports.numbers import Outcome
from reproduction.reweighted.data import SHOWN, Reweighted
from reproduction.reweighted.scores import EFFECT, PERCENT, Overall

BASE, PEAR = "base", "pear"
FEWEST = 30  # questions below which intervals are not to be trusted, so nothing is decided

_SIDES = {"gain": "better", "loss": "worse", "undecided": "no difference found"}

#: What each system is, for readers.
SYSTEMS = {
    BASE: "the model as it is",
    PEAR: "the heads that hold copying back, gains trained on random sequences",
    "random": "as many heads at random, gains trained alike",
    "lowest": "as many heads of the lowest effect, gains trained alike",
    "all": "every head, gains trained alike",
    "zero": "PEAR's heads cut out",
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict.

    Attributes:
        outcome: As the page colours it.
        headline: One sentence.
        reasons: What it rests on, each a sentence.
    """

    outcome: Outcome
    headline: str
    reasons: tuple[str, ...]


def judge(data: Reweighted) -> Verdict:
    """The verdict on PEAR against the base model; on the loss of random sequences alone where there are no answers."""
    if (gap := data.mean_gap(PEAR, BASE, data.primary)) is None:
        unmeasured = f"PEAR was not measured on {data.model}."
        headline = head_gains.headline(data.model, data.gains) if data.gains else unmeasured
        return Verdict("undecided", headline, tuple(_copying(data)))
    metric = data.primary
    few = gap.interval.n < FEWEST
    outcome: Outcome = "undecided" if few else SHOWN[metric].outcome(gap.interval)
    names = ", ".join(questions.name for questions in data.sets)
    unit = "points" if metric in PERCENT else "nats per token" if metric == "loss" else "nats"
    words = {
        "gain": f"Reweighted by PEAR, {data.model} answers better",
        "loss": f"Reweighted by PEAR, {data.model} answers worse",
        "undecided": f"Whether {data.model} answers better when reweighted by PEAR cannot be told",
    }[outcome]
    headline = f"{words}: {_gap(gap)} {unit} of “{SHOWN[metric].words}”, the mean over {names}."
    reasons = [f"{gap.interval.n} questions are too few to decide by; {FEWEST} are the least."] if few else []
    reasons += [*_against_controls(data, outcome), *_loss(data), *_retained(data), *_copying(data), *_power(data)]
    return Verdict(outcome, headline, tuple(reasons))


def _gap(gap: Overall) -> str:
    return SHOWN[gap.metric].span(gap.interval, sign=True)


def _against_controls(data: Reweighted, outcome: Outcome) -> list[str]:
    reasons = []
    for control in ("random", "lowest", "all", "zero"):
        own, gap = data.mean_gap(control, BASE, data.primary), data.mean_gap(PEAR, control, data.primary)
        if own is None or gap is None:
            continue
        side = SHOWN[data.primary].outcome(gap.interval)
        words = {
            "gain": "PEAR is better than it",
            "loss": "PEAR is worse than it",
            "undecided": "PEAR cannot be told from it",
        }[side]
        if side == "undecided" and outcome == "gain":
            words += ", so the gain is not shown to come from these heads"
        reasons.append(
            f"Control “{control}” ({SYSTEMS[control]}): {_gap(own)} against the model as it is; {words} ({_gap(gap)})."
        )
    return reasons


def _loss(data: Reweighted) -> list[str]:
    gap = data.mean_gap(PEAR, BASE, "loss")
    if gap is None or data.primary == "loss":
        return []
    words = {
        "gain": "more likely",
        "loss": "less likely",
        "undecided": "neither more nor less likely, as far as can be told",
    }[SHOWN["loss"].outcome(gap.interval)]
    reasons = [f"The right answers become {words}: their loss changes by {_gap(gap)} nats a token."]
    if (choice := data.mean_gap(PEAR, BASE, "choice_loss")) is not None:
        reasons.append(
            "Among answers, where the form of an answer has no part, the loss of the right one changes by "
            f"{_gap(choice)} nats ({_SIDES[SHOWN['choice_loss'].outcome(choice.interval)]})."
        )
    return reasons


def _retained(data: Reweighted) -> list[str]:
    reasons = []
    for cell in data.retained:
        if cell.system == PEAR and cell.gap is not None:
            info, gap = SHOWN[cell.metric], cell.gap.interval
            reasons.append(f"{cell.set}, {info.words}: {info.span(gap, sign=True)} ({_SIDES[info.outcome(gap)]}).")
    return reasons


def _copying(data: Reweighted) -> list[str]:
    return head_gains.remarks(data.gains) if data.gains else []


def _power(data: Reweighted) -> list[str]:
    reasons = []
    for questions in data.sets:
        cell = data.cell(questions.name, PEAR, data.primary)
        if cell is not None and cell.gap is not None and cell.gap.needed is not None:
            reasons.append(
                f"To find a true difference of {EFFECT:g} points on {questions.name} in 80 of 100 repetitions takes "
                f"about {cell.gap.needed:,} questions; {questions.questions:,} were asked."
            )
    return reasons
