"""All diagnostics read together: the verdict, what it rests on, and how many queries would tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from coldframe.diagnosis.advice import Savings, advice, leak_advice, store_advice
from coldframe.diagnosis.evidence import Estimate, Ladder, Outcome, StoreAblation, StoreHealth, TokenVariance, Verdict
from coldframe.diagnosis.outcomes import NEGLIGIBLE, all_swapped, joint_outcome, no_gain, without_retrieval
from coldframe.diagnosis.shares import queries_needed
from coldframe.evaluation.verdict import FEWEST
from coldframe.reports.numbers import percent_span

#: Fewer queries get no verdict: a bootstrap of so few rows is too narrow to be trusted.
MIN_QUERIES = FEWEST
#: An interval that has to become so many times narrower: that takes a million times the queries.
OUT_OF_REACH = 1_000


def verdict(
    subject: str,
    store_ablation: StoreAblation,
    token_variance: TokenVariance | None = None,
    ladder: Ladder | None = None,
    store_health: StoreHealth | None = None,
    *,
    n: int,
    savings: Savings | None = None,
) -> Verdict:
    """Read all diagnostics together.

    Args:
        subject: The pipeline's name.
        store_ablation: Diagnostic 1.
        token_variance: Diagnostic 2, if there are soft tokens.
        ladder: Diagnostic 3, if it was trained.
        store_health: For advice only; it decides nothing.
        n: Queries. Fewer than 30 get no verdict.
        savings: What a simpler method would save, if it is known.
    """
    diagnostics = [("Store ablation", store_ablation), ("Token variance", token_variance), ("Ladder", ladder)]
    outcome, basis = joint_outcome(
        store_ablation.outcome,
        token_variance.outcome if token_variance else None,
        ladder.outcome if ladder else None,
    )
    gain = store_ablation.gain
    if n < MIN_QUERIES:
        return _too_few(subject, diagnostics, store_health, n)
    if not gain.low > 0:
        outcome, needed = "cannot-tell", _needed([(gain, 0.0)], n) if gain.value > 0 else 0
        headline = f"Cannot tell: {subject} has no gain to explain. {no_gain(gain)}"
    else:
        needed = _needed(_undecided(store_ablation, ladder), n) if outcome == "cannot-tell" else 0
        headline = _headline(subject, outcome, basis, store_ablation)
    sentences = advice(outcome, store_ablation, ladder, store_health, savings)
    if needed:
        more = (
            f"Ask more queries: about {_rounded(needed)} would tell if the values stay as they are, and {n} were asked."
        )
        sentences = (more, *sentences)
    return Verdict(
        outcome,
        headline,
        tuple(f"{name}: {own.outcome.replace('-tell', ' tell')}. {own.reason}" for name, own in diagnostics if own),
        sentences,
        needed,
    )


def _too_few(subject: str, diagnostics: Sequence[tuple[str, Any]], store_health: StoreHealth | None, n: int) -> Verdict:
    """No verdict, nor one of a single diagnostic: numbers, and what to know of the store."""
    plural = "query is" if n == 1 else "queries are"
    headline = f"Cannot tell: {n} {plural} too few for a verdict on {subject}; it takes {MIN_QUERIES} or more."
    return Verdict(
        "cannot-tell",
        headline,
        tuple(f"{name}: {own.reason}" for name, own in diagnostics if own),
        (
            f"Ask {MIN_QUERIES} queries or more; {n} {'was' if n == 1 else 'were'} asked.",
            *leak_advice(store_health),
            *store_advice(store_health),
        ),
        MIN_QUERIES,
    )


def _headline(subject: str, outcome: Outcome, basis: str, store_ablation: StoreAblation) -> str:
    if outcome == "cannot-tell":
        return f"Cannot tell what the gain of {subject} comes from: {basis}."
    if outcome == "mixed" and " says " in basis:
        return f"{subject} is mixed: two diagnostics disagree about its gain ({basis})."
    lost = ""
    if deciding := without_retrieval(store_ablation.ablations):
        lost = f"; {percent_span(deciding[0].share)} of it is lost without what is retrieved"
    means = {
        "retrieval-driven": "most of the gain comes from what it retrieves",
        "query-driven": "what depends on the input follows the query, not what it retrieves",
        "prompt-tuning-like": "a prompt that is the same for every query would do",
        "mixed": "its gain has no single source",
    }
    return f"{subject} is {outcome}: {means[outcome]}{lost} ({basis})."


def _undecided(store_ablation: StoreAblation, ladder: Ladder | None) -> list[tuple[Estimate, float]]:
    """The estimates that left the verdict open, each with the boundary that its interval includes."""
    if store_ablation.outcome == "cannot-tell":
        rows = [*without_retrieval(store_ablation.ablations), all_swapped(store_ablation.ablations)]
        shares = [(row.share, NEGLIGIBLE) for row in rows if row]
    else:
        shares = [(rung.share, 1 - NEGLIGIBLE) for rung in ladder.rungs if rung.name != "full"] if ladder else []
    return [(share, boundary) for share, boundary in shares if share.low <= boundary <= share.high]


def _needed(estimates: Sequence[tuple[Estimate, float]], n: int) -> int:
    """Queries that tell all estimates from their boundaries, if the values stay as they are; 0 if no number would."""
    needed = [0]
    for estimate, boundary in estimates:
        value = estimate.value
        side = value - estimate.low if boundary < value else estimate.high - value
        delta = abs(value - boundary)
        if delta <= side / OUT_OF_REACH:  # it lies on the boundary, for all that anybody will ever ask
            return 0
        needed.append(queries_needed(math.sqrt(n) * side / NormalDist().inv_cdf(0.975), delta))
    return max(needed)


def _rounded(count: int) -> str:
    """Two digits are as much as such a number is worth."""
    digits = 10 ** max(0, len(str(count)) - 2)
    return f"{math.ceil(count / digits) * digits:,}"
