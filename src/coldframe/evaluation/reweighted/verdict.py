"""What the measurements on a reweighted model allow to say, by what intervals exclude."""

from __future__ import annotations

import dataclasses

from coldframe.evaluation.answers.scores import EFFECT, PERCENT
from coldframe.evaluation.intervals import Interval
from coldframe.evaluation.reweighted.data import SHOWN, Reweighted

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
class Said:
    """The verdict.

    Attributes:
        outcome: ``gain``, ``loss`` or ``undecided``, as the page colours it.
        headline: One sentence.
        reasons: What it rests on, each a sentence.
    """

    outcome: str
    headline: str
    reasons: tuple[str, ...]


def judge(data: Reweighted) -> Said:
    """The verdict on PEAR against the base model; on the loss of random sequences alone where nothing was asked."""
    if (gap := data.mean_gap(PEAR, BASE, data.primary)) is None:
        return Said("undecided", _unasked(data), tuple(_copying(data)))
    metric = data.primary
    few = gap.interval.n < FEWEST
    outcome = "undecided" if few else direction(gap.interval, metric)
    names = ", ".join(one.name for one in data.sets)
    found = SHOWN[metric].span(gap.interval, sign=True)
    unit = "points" if metric in PERCENT else "nats per token" if metric == "loss" else "nats"
    words = {
        "gain": f"Reweighted by PEAR, {data.model} answers better",
        "loss": f"Reweighted by PEAR, {data.model} answers worse",
        "undecided": f"Whether {data.model} answers better when reweighted by PEAR cannot be told",
    }[outcome]
    headline = f"{words}: {found} {unit} of “{SHOWN[metric].words}”, the mean over {names}."
    reasons = [f"{gap.interval.n} questions are too few to decide by; {FEWEST} are the least."] if few else []
    reasons += [*_against_controls(data, outcome), *_loss(data), *_kept(data), *_copying(data), *_power(data)]
    return Said(outcome, headline, tuple(reasons))


def direction(found: Interval, metric: str) -> str:
    """``gain``, ``loss`` or ``undecided``: which side of 0 the whole interval lies on.

    >>> direction(Interval(1.0, 0.2, 1.8, n=9), "contains"), direction(Interval(1.0, 0.2, 1.8, n=9), "loss")
    ('gain', 'loss')
    """
    if found.low > 0 or found.high < 0:
        return "gain" if (found.low > 0) == SHOWN[metric].higher else "loss"
    return "undecided"


def _unasked(data: Reweighted) -> str:
    found = data.found
    if found is None:
        return f"PEAR was not measured on {data.model}."
    moved = "falls" if found.loss_after < found.loss_before else "does not fall"
    return (
        f"With gains on {_count(len(found.heads), 'head')} of {data.model}, the loss of copying random tokens {moved} "
        f"from {found.loss_before:.3f} to {found.loss_after:.3f} nats. Whether it answers better was not measured."
    )


def _against_controls(data: Reweighted, outcome: str) -> list[str]:
    reasons = []
    for control in ("random", "lowest", "all", "zero"):
        own, gap = data.mean_gap(control, BASE, data.primary), data.mean_gap(PEAR, control, data.primary)
        if own is None or gap is None:
            continue
        show, side = SHOWN[data.primary], direction(gap.interval, data.primary)
        words = {
            "gain": "PEAR is better than it",
            "loss": "PEAR is worse than it",
            "undecided": "PEAR cannot be told from it",
        }[side]
        if side == "undecided" and outcome == "gain":
            words += ", so the gain is not shown to come from these heads"
        reasons.append(
            f"Control “{control}” ({SYSTEMS[control]}): {show.span(own.interval, sign=True)} against the model as it "
            f"is; {words} ({show.span(gap.interval, sign=True)})."
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
    }[direction(gap.interval, "loss")]
    found = SHOWN["loss"].span(gap.interval, sign=True)
    reasons = [f"The right answers become {words}: their loss changes by {found} nats a token."]
    if (choice := data.mean_gap(PEAR, BASE, "choice_loss")) is not None:
        found = SHOWN["choice_loss"].span(choice.interval, sign=True)
        reasons.append(
            f"Among answers, where the form of an answer has no part, the loss of the right one changes by {found} "
            f"nats ({_SIDES[direction(choice.interval, 'choice_loss')]})."
        )
    return reasons


def _kept(data: Reweighted) -> list[str]:
    reasons = []
    for cell in data.retained:
        if cell.system == PEAR and cell.gap is not None:
            info, side = SHOWN[cell.metric], direction(cell.gap.interval, cell.metric)
            reasons.append(f"{cell.set}, {info.words}: {info.span(cell.gap.interval, sign=True)} ({_SIDES[side]}).")
    return reasons


def _copying(data: Reweighted) -> list[str]:
    found = data.found
    if found is None:
        return []
    below = sum(one.gain < 1 for one in found.heads)
    reasons = [f"{below} of {_count(len(found.heads), 'head')} with a gain are weighed down."]
    if found.stability is not None:
        reasons.append(
            f"Rank correlation of all effects between two settings of N and n: {found.stability:.2f}; near 0 the "
            "choice of heads would be chance."
        )
    return reasons


def _power(data: Reweighted) -> list[str]:
    reasons = []
    for one in data.sets:
        cell = data.cell(one.name, PEAR, data.primary)
        if cell is not None and cell.gap is not None and cell.gap.needed is not None:
            reasons.append(
                f"To find a true difference of {EFFECT:g} points on {one.name} in 80 of 100 repetitions takes about "
                f"{cell.gap.needed:,} questions; {one.questions:,} were asked."
            )
    return reasons


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
