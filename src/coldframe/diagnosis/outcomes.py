"""Outcomes of the diagnostics, alone and together, by what their intervals exclude."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from coldframe.diagnosis.advice import STATIC_RUNGS, best_static
from coldframe.diagnosis.evidence import Ablation, Estimate, Outcome, Rung
from coldframe.reports.numbers import percent, percent_span, span

#: A share of the gain below this counts as nothing, and one above :data:`MOST` as most of it.
#: Ours, like all thresholds here; fixed before any pipeline was diagnosed.
NEGLIGIBLE = 0.10
MOST = 0.50
#: Tokens are called alike above this mean cosine, or below this share of energy that depends on the query.
ALIKE_COSINE = 0.99
ALIKE_ENERGY = 0.01

#: Conditions that take away what was retrieved for the query, the one that decides first.
WITHOUT_RETRIEVAL = ("swapped", "random", "fixed", "gaussian", "mean")

#: Where a share lies for certain, see :func:`band`.
Band = Literal["most", "some", "nothing", "open"]


def band(share: Estimate) -> Band:
    """Where a share lies for certain: above one half, above a tenth, below a tenth; else it is open.

    Example:
        >>> band(Estimate(0.7, 0.6, 0.8)), band(Estimate(0.02, -0.03, 0.06)), band(Estimate(0.1, 0.0, 0.2))
        ('most', 'nothing', 'open')
    """
    if share.low > MOST:
        return "most"
    if share.high < NEGLIGIBLE:
        return "nothing"
    return "some" if share.low > NEGLIGIBLE else "open"


def store_ablation_outcome(gain: Estimate, ablations: Sequence[Ablation]) -> tuple[Outcome, str]:
    """What the store ablation says on its own, and the reason.

    With rho the share of the gain that is lost without what was retrieved (the query stays), and rho_all the
    share lost with all of another query's conditioning::

        lower(rho) > 0.50                          retrieval-driven
        upper(rho) < 0.10, upper(rho_all) < 0.10   prompt-tuning-like
        upper(rho) < 0.10, lower(rho_all) > 0.10   query-driven
        lower(rho) > 0.10                          mixed
        otherwise                                  cannot tell

    Where the method was trained again without retrieval, those shares must lie in the same range as rho; if one is
    certainly nothing and another certainly something, the outcome is mixed. A pipeline whose query enters as text only
    has no rho_all: what retrieval does not explain is then called prompt-tuning-like. The first condition of
    ``WITHOUT_RETRIEVAL`` that was run gives rho.
    """
    if not gain.low > 0:
        return "cannot-tell", no_gain(gain)
    deciding = without_retrieval(ablations)
    if not deciding:
        return "cannot-tell", "Nothing was put in the place of what was retrieved."
    store, *retrained = deciding
    reason = f"{_REPLACED_BY[store.condition]}, {percent_span(store.share)} of the gain is lost."
    for row in retrained:
        reason += f" Trained again under the condition {row.condition!r}, it is {percent_span(row.share)}."
    bands = {band(row.share) for row in deciding}
    if bands == {"most"}:
        return "retrieval-driven", reason
    if "nothing" in bands and bands & {"some", "most"}:
        return "mixed", f"{reason} The trained pipeline and the one trained without retrieval disagree."
    if "open" in bands:
        return "cannot-tell", f"{reason} That may be less than {NEGLIGIBLE:.0%} or more."
    if bands != {"nothing"}:
        return "mixed", reason
    other = all_swapped(ablations)
    if other is None:
        return "prompt-tuning-like", reason
    reason += f" With all of another query's conditioning it is {percent_span(other.share)}."
    place = band(other.share)
    if place == "open":
        return "cannot-tell", f"{reason} Whether the rest follows the query is open."
    return ("prompt-tuning-like" if place == "nothing" else "query-driven"), reason


_REPLACED_BY = {
    "swapped": "With what was retrieved for another query in its place",
    "random": "With random entries",
    "fixed": "With the same entries for all queries",
    "gaussian": "With noise in the place of the entries",
    "mean": "With the mean entry for all queries",
}


def token_outcome(
    energy_share: Estimate, cosines: Sequence[Estimate], mean_share: Estimate, predicted_share: Estimate
) -> tuple[Outcome, str]:
    """What the variance of the soft tokens says on its own, and the reason.

    With rho_mean the share of the gain that is lost when the mean token stands in for each query's own, and
    rho_e the share lost with tokens predicted from the query's vector alone::

        upper(rho_mean) < 0.10                       prompt-tuning-like
        lower(rho_mean) > 0.50, lower(rho_e) > 0.50  retrieval-driven
        lower(rho_mean) > 0.50, upper(rho_e) < 0.10  query-driven
        lower(rho_mean) > 0.50, lower(rho_e) > 0.10  mixed
        0.50 > lower(rho_mean) > 0.10                mixed
        otherwise                                    cannot tell

    Deviates: the tokens' cosines and energy share describe and do not decide. Variance may lie in directions that the
    model ignores, and a large static part makes a small share of energy matter.
    """
    if math.isnan(mean_share.value):
        return "cannot-tell", "There is no gain to have shares of."
    cosine = sum(mean.value for mean in cosines) / max(len(cosines), 1)
    alike = cosine > ALIKE_COSINE or energy_share.value < ALIKE_ENERGY
    reason = f"With the mean token for all queries, {percent_span(mean_share)} of the gain is lost."
    place = band(mean_share)
    if place == "nothing":
        cause = "they are nearly the same for all queries" if alike else "the model ignores what differs"
        reason += f" {percent(energy_share.value)} of the tokens' energy depends on the input: {cause}."
        return "prompt-tuning-like", reason
    if place == "open":
        return "cannot-tell", f"{reason} That may be less than {NEGLIGIBLE:.0%} or more."
    if place == "some":
        return "mixed", reason
    reason += f" With tokens predicted from the query alone it is {percent_span(predicted_share)}."
    outcomes: dict[Band, Outcome] = {
        "most": "retrieval-driven",
        "nothing": "query-driven",
        "some": "mixed",
        "open": "cannot-tell",
    }
    return outcomes[band(predicted_share)], reason


def ladder_outcome(rungs: Sequence[Rung], retrieval: Estimate) -> tuple[Outcome, str]:
    """What the prompt-tuning ladder says on its own, and the reason.

    With R_k the share of the pipeline's gain that rung k reaches, 1 to 3 the static rungs, 4 the prompt from
    the query alone and 5 the pipeline::

        lower(R_k) > 0.90 of the best static rung           prompt-tuning-like
        lower(R_4) > 0.90 and all upper(R_1..3) < 0.90      query-driven
        lower(1 - R_4) > 0.10 and all upper(R_1..3) < 0.90  retrieval-driven
        otherwise                                           cannot tell

    Deviates: retrieval also has to beat the static rungs for certain, because a prompt from the query alone that was
    trained badly proves nothing. ``retrieval`` is 1 - R_4.
    """
    best = best_static(rungs)
    if best is None:
        return "cannot-tell", "No static prompt was trained."
    if math.isnan(best.share.value):
        return "cannot-tell", "There is no gain to have shares of."
    query = next((rung for rung in rungs if rung.name == "query-only"), None)
    reason = f"The best static prompt ({best.name}) reaches {percent_span(best.share)} of the gain"
    reason += f", a prompt from the query alone {percent_span(query.share)}." if query else "."
    enough = 1 - NEGLIGIBLE
    if best.share.low > enough:
        return "prompt-tuning-like", reason
    if query and all(rung.share.high < enough for rung in rungs if rung.name in STATIC_RUNGS):
        if query.share.low > enough:
            return "query-driven", reason
        if retrieval.low > NEGLIGIBLE:
            return "retrieval-driven", reason
    elif query is None and all(rung.share.high < enough for rung in rungs if rung.name in STATIC_RUNGS):
        return "cannot-tell", f"{reason} A prompt from the query alone was not trained."
    return "cannot-tell", f"{reason} Whether one of them reaches {enough:.0%} is open."


def joint_outcome(store: Outcome, tokens: Outcome | None = None, ladder: Outcome | None = None) -> tuple[Outcome, str]:
    """What the diagnostics say together, and what that rests on.

    Store ablation and ladder outrank the token variance: where both say something, they decide, and it is
    ``"mixed"`` if they differ. Where one of them cannot tell, the other one needs the tokens' agreement. Without
    a ladder the store ablation decides alone.

    Example:
        >>> joint_outcome("retrieval-driven", "mixed", "retrieval-driven")
        ('retrieval-driven', 'store ablation and ladder agree')
        >>> joint_outcome("retrieval-driven", ladder="cannot-tell")
        ('cannot-tell', 'only the store ablation says something, and no other diagnostic agrees with it')
    """
    if ladder is None:
        if store == "cannot-tell":
            return store, "the store ablation cannot tell"
        if tokens in (None, "cannot-tell"):
            return store, "the store ablation alone"
        if tokens == store:
            return store, "store ablation and token variance agree"
        return store, f"the store ablation, which outranks the token variance ({tokens})"
    if store == ladder:
        return store, f"store ablation and ladder {'cannot tell' if store == 'cannot-tell' else 'agree'}"
    if "cannot-tell" not in (store, ladder):
        return "mixed", f"the store ablation says {store}, the ladder {ladder}"
    name, outcome = ("store ablation", store) if ladder == "cannot-tell" else ("ladder", ladder)
    if tokens == outcome:
        return outcome, f"{name} and token variance agree"
    return "cannot-tell", f"only the {name} says something, and no other diagnostic agrees with it"


def without_retrieval(ablations: Sequence[Ablation]) -> list[Ablation]:
    """The ablations that decide: one at evaluation, first, and all for which the method was trained again."""
    at_evaluation = {row.condition: row for row in ablations if not row.retrained}
    first = next(([at_evaluation[name]] for name in WITHOUT_RETRIEVAL if name in at_evaluation), [])
    return first and first + [row for row in ablations if row.retrained and row.condition in WITHOUT_RETRIEVAL]


def all_swapped(ablations: Sequence[Ablation]) -> Ablation | None:
    """The ablation with all of another query's conditioning, if it was run."""
    return next((row for row in ablations if row.condition == "swapped-conditioning" and not row.retrained), None)


def no_gain(gain: Estimate) -> str:
    """Why there is nothing to explain."""
    relation = "is higher than" if gain.high < 0 else "cannot be told from"
    return f"Its loss {relation} that of the model alone: a gain of {span(gain, 3)}."
