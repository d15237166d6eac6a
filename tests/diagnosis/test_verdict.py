from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest

from coldframe.diagnosis.advice import Savings
from coldframe.diagnosis.evidence import (
    Ablation,
    Estimate,
    Ladder,
    Outcome,
    Rung,
    StoreAblation,
    StoreHealth,
    TokenVariance,
    Verdict,
)
from coldframe.diagnosis.outcomes import (
    band,
    joint_outcome,
    ladder_outcome,
    store_ablation_outcome,
    token_outcome,
)
from coldframe.diagnosis.shares import UNDEFINED, queries_needed
from coldframe.diagnosis.verdict import verdict

GAIN = Estimate(0.4, 0.35, 0.45)
OUTCOMES = get_args(Outcome)

# One share for each band, and what sits on a boundary: open on both.
SHARES = {
    "most": Estimate(0.7, 0.6, 0.8),
    "some": Estimate(0.3, 0.2, 0.4),
    "nothing": Estimate(0.01, -0.03, 0.05),
    "open": Estimate(0.12, 0.02, 0.22),
}


def ablation(condition, share, retrained=False):
    share = SHARES[share] if isinstance(share, str) else share
    return Ablation(condition, retrained, Estimate(1.0, 0.9, 1.1), Estimate(0.1, 0.0, 0.2), share)


def rung(name, share, parameters=1000):
    return Rung(name, "", parameters, 1e-3, (), Estimate(1.0, 0.9, 1.1), GAIN, share)


def store(outcome="retrieval-driven", *ablations, gain=GAIN):
    return StoreAblation(gain, ablations or (ablation("swapped", "most"),), (), outcome, "Because of the store.")


def tokens(outcome):
    nothing = Estimate(0.0, 0.0, 0.0)
    return TokenVariance(
        tokens=1,
        energy_share=nothing,
        cosines=(nothing,),
        effective_ranks=(1.0,),
        given_query=0.0,
        mean_share=nothing,
        predicted_share=nothing,
        divergence=nothing,
        probe=0.0,
        probe_chance=0.0,
        probe_p_value=1.0,
        similarity=((1.0,),),
        outcome=outcome,
        reason="Because of the tokens.",
    )


def ladder(outcome, *rungs):
    return Ladder(rungs, GAIN, SHARES["open"], (), 3, outcome, "Because of the ladder.")


def health(**changes):
    healthy = dict(
        entries=500, queries=200, k=5, hubness=0.3, never=0.1, gini=0.3, entropy=0.95,
        overlap=Estimate(0.01, 0.0, 0.02), overlap_chance=0.005, contrast=0.6, score_gap=0.2,
        anisotropy=0.1, anisotropy_centred=0.0, duplicates=0, leaks=0, curve=(), warnings=(),
    )  # fmt: skip
    return StoreHealth(**(healthy | changes))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.51, 0.9, "most"),
        (0.50, 0.9, "some"),
        (0.11, 0.9, "some"),
        (0.10, 0.9, "open"),
        (-0.2, 0.10, "open"),
        (-0.2, 0.09, "nothing"),
        (-0.5, -0.2, "nothing"),
        (math.nan, math.nan, "open"),
    ],
)
def test_bands(low, high, expected):
    assert band(Estimate((low + high) / 2, low, high)) == expected


# Share without what was retrieved, share with all of another query's conditioning, outcome.
STORE = [
    ("most", None, "retrieval-driven"),
    ("most", "most", "retrieval-driven"),
    ("some", None, "mixed"),
    ("some", "most", "mixed"),
    ("open", "most", "cannot-tell"),
    ("open", None, "cannot-tell"),
    ("nothing", None, "prompt-tuning-like"),
    ("nothing", "nothing", "prompt-tuning-like"),
    ("nothing", "some", "query-driven"),
    ("nothing", "most", "query-driven"),
    ("nothing", "open", "cannot-tell"),
]


@pytest.mark.parametrize(("swapped", "conditioning", "expected"), STORE)
def test_store_ablation(swapped, conditioning, expected):
    ablations = [ablation("oracle", "nothing"), ablation("random", "open"), ablation("swapped", swapped)]
    if conditioning:
        ablations.append(ablation("swapped-conditioning", conditioning))
    outcome, reason = store_ablation_outcome(GAIN, ablations)
    assert outcome == expected
    assert f"{100 * SHARES[swapped].value:.0f}% [" in reason


# Share at evaluation, share of the method trained again, outcome.
RETRAINED = {
    ("most", "most"): "retrieval-driven",
    ("most", "some"): "mixed",
    ("most", "nothing"): "mixed",
    ("most", "open"): "cannot-tell",
    ("some", "most"): "mixed",
    ("some", "some"): "mixed",
    ("some", "nothing"): "mixed",
    ("some", "open"): "cannot-tell",
    ("nothing", "most"): "mixed",
    ("nothing", "some"): "mixed",
    ("nothing", "nothing"): "prompt-tuning-like",
    ("nothing", "open"): "cannot-tell",
    ("open", "most"): "cannot-tell",
    ("open", "some"): "cannot-tell",
    ("open", "nothing"): "cannot-tell",
    ("open", "open"): "cannot-tell",
}


@pytest.mark.parametrize(("at_evaluation", "again"), list(itertools.product(SHARES, SHARES)))
def test_store_ablation_and_retraining_have_to_agree(at_evaluation, again):
    ablations = [ablation("random", again, retrained=True), ablation("swapped", at_evaluation)]
    outcome, reason = store_ablation_outcome(GAIN, ablations)
    assert outcome == RETRAINED[at_evaluation, again]
    assert "Trained again" in reason


def test_training_with_shuffled_labels_is_not_training_without_retrieval():
    ablations = [ablation("swapped", "most"), ablation("shuffled", "nothing", retrained=True)]
    assert store_ablation_outcome(GAIN, ablations)[0] == "retrieval-driven"


def test_store_ablation_falls_back_on_the_next_best_condition():
    ablations = [ablation("mean", "nothing"), ablation("random", "most"), ablation("fixed", "some")]
    outcome, reason = store_ablation_outcome(GAIN, ablations)
    assert outcome == "retrieval-driven" and reason.startswith("With random entries")
    assert store_ablation_outcome(GAIN, [ablation("oracle", "most")])[0] == "cannot-tell"


@pytest.mark.parametrize(
    ("gain", "words"),
    [(Estimate(0.1, -0.1, 0.3), "cannot be told"), (Estimate(-0.2, -0.3, -0.1), "higher"), (UNDEFINED, "cannot")],
)
def test_no_gain_no_outcome(gain, words):
    outcome, reason = store_ablation_outcome(gain, [ablation("swapped", "most")])
    assert outcome == "cannot-tell" and words in reason


TOKENS = {
    ("most", "most"): "retrieval-driven",
    ("most", "nothing"): "query-driven",
    ("most", "some"): "mixed",
    ("most", "open"): "cannot-tell",
} | {
    (mean, predicted): outcome
    for mean, outcome in (("some", "mixed"), ("nothing", "prompt-tuning-like"), ("open", "cannot-tell"))
    for predicted in SHARES
}


@pytest.mark.parametrize(("mean", "predicted"), list(itertools.product(SHARES, SHARES)))
def test_tokens(mean, predicted):
    energy, cosines = Estimate(0.4, 0.3, 0.5), [Estimate(0.6, 0.5, 0.7)]
    outcome, reason = token_outcome(energy, cosines, SHARES[mean], SHARES[predicted])
    assert outcome == TOKENS[mean, predicted]
    # Tokens that hardly differ change the words and not the outcome.
    alike, other = token_outcome(Estimate(0.001, 0, 0.002), cosines, SHARES[mean], SHARES[predicted])
    assert alike == outcome
    assert ("ignores" in reason, "same for all" in other) == (mean == "nothing", mean == "nothing")


def test_tokens_without_a_gain():
    assert token_outcome(SHARES["most"], [], UNDEFINED, UNDEFINED)[0] == "cannot-tell"


ABOVE, NEAR, BELOW = Estimate(0.97, 0.94, 1.0), Estimate(0.9, 0.85, 0.95), Estimate(0.5, 0.4, 0.6)


@pytest.mark.parametrize(
    ("static", "query", "expected"),
    [
        (ABOVE, ABOVE, "prompt-tuning-like"),
        (ABOVE, BELOW, "prompt-tuning-like"),
        (ABOVE, None, "prompt-tuning-like"),
        (NEAR, ABOVE, "cannot-tell"),
        (NEAR, BELOW, "cannot-tell"),
        (BELOW, ABOVE, "query-driven"),
        (BELOW, NEAR, "cannot-tell"),
        (BELOW, BELOW, "retrieval-driven"),
        (BELOW, None, "cannot-tell"),
        (UNDEFINED, UNDEFINED, "cannot-tell"),
    ],
)
@pytest.mark.parametrize("best", ["prompt-tuning", "reparameterised", "constant"])
def test_ladder(static, query, expected, best):
    worse = Estimate(0.3, 0.2, 0.4) if not math.isnan(static.value) else UNDEFINED
    rungs = [rung(n, static if n == best else worse) for n in ("prompt-tuning", "reparameterised", "constant")]
    rungs.append(rung("full", Estimate(1.0, 1.0, 1.0)))
    left = UNDEFINED
    if query:
        rungs.append(rung("query-only", query))
        left = Estimate(1 - query.value, 1 - query.high, 1 - query.low)
    assert ladder_outcome(rungs, left)[0] == expected


def test_a_wide_static_rung_keeps_the_ladder_open():
    """The best static prompt is surely below, but a worse one may be above: nothing is proven."""
    rungs = [rung("prompt-tuning", BELOW), rung("constant", Estimate(0.45, 0.0, 0.92)), rung("query-only", BELOW)]
    assert ladder_outcome(rungs, Estimate(0.5, 0.4, 0.6))[0] == "cannot-tell"
    assert ladder_outcome([rung("query-only", BELOW)], Estimate(0.5, 0.4, 0.6))[0] == "cannot-tell"


@pytest.mark.parametrize(
    ("one", "two", "three"), list(itertools.product(OUTCOMES, (None, *OUTCOMES), (None, *OUTCOMES)))
)
def test_joint_truth_table(one, two, three):
    """All 180 cases, against the rule said another way."""
    unsure = "cannot-tell"
    if three is None:
        expected = one
    elif one != unsure and three != unsure:
        expected = one if one == three else "mixed"
    else:
        said = {x for x in (one, three) if x != unsure}
        expected = said.pop() if said == {two} else unsure
    outcome, basis = joint_outcome(one, two, three)
    assert outcome == expected
    # At least two agree, or the store ablation speaks for itself, or the two that outrank differ.
    votes = [x for x in (one, two, three) if x == outcome]
    assert outcome in (unsure, "mixed") or len(votes) >= 2 or (three is None and "store ablation" in basis)


def test_verdict_leads_with_subject_outcome_and_number():
    found = verdict("MHA-ESP", store(), tokens("retrieval-driven"), ladder("retrieval-driven"), n=779)
    assert found.outcome == "retrieval-driven" and found.queries_needed == 0
    assert found.headline.startswith("MHA-ESP is retrieval-driven")
    assert "70% [60, 80]" in found.headline and "agree" in found.headline
    assert found.reasons == (
        "Store ablation: retrieval-driven. Because of the store.",
        "Token variance: retrieval-driven. Because of the tokens.",
        "Ladder: retrieval-driven. Because of the ladder.",
    )
    assert Verdict.from_dict(found.to_dict()) == found


def test_one_diagnostic_is_said_to_be_one():
    assert "the store ablation alone" in verdict("RAG", store(), n=779).headline
    found = verdict("RAG", store(), tokens("query-driven"), n=779)
    assert found.outcome == "retrieval-driven" and "outranks the token variance (query-driven)" in found.headline


def test_disagreement_is_said():
    found = verdict("RAG", store(), ladder=ladder("prompt-tuning-like"), n=779)
    assert found.outcome == "mixed"
    assert "the store ablation says retrieval-driven, the ladder prompt-tuning-like" in found.headline


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_too_few_queries_get_no_verdict(outcome):
    found = verdict("RAG", store(outcome), ladder=ladder(outcome), n=29)
    assert found.outcome == "cannot-tell" and found.queries_needed == 30
    assert "29 queries are too few" in found.headline


def test_no_gain_to_explain():
    found = verdict("RAG", store("cannot-tell", gain=Estimate(0.1, -0.1, 0.3)), n=100)
    assert found.outcome == "cannot-tell" and "no gain to explain" in found.headline
    # A standard error of 0.102 at 100 queries and a distance of 0.1 to nothing.
    assert found.queries_needed == queries_needed(10 * 0.2 / 1.959964, 0.1)
    harm = verdict("RAG", store("cannot-tell", gain=Estimate(-0.2, -0.3, -0.1)), n=100)
    assert harm.queries_needed == 0 and any("model alone" in one for one in harm.advice)


def test_the_number_of_queries_that_would_tell():
    open_share = Estimate(0.14, 0.04, 0.24)
    found = verdict("RAG", store("cannot-tell", ablation("swapped", open_share)), n=400)
    # At 400 queries the interval reaches down by 0.1; it has to leave out what lies 0.04 away, four times of five.
    assert found.queries_needed == pytest.approx(400 * (0.1 * 2.8016 / 1.96 / 0.04) ** 2, rel=0.01)
    assert (
        found.advice[0]
        == "Ask more queries: about 5,200 would tell if the values stay as they are, and 400 were asked."
    )
    # The store ablation says something, the ladder is open: then it is the ladder that needs them.
    rungs = rung("prompt-tuning", Estimate(0.8, 0.65, 0.95)), rung("query-only", BELOW)
    found = verdict("RAG", store(), ladder=ladder("cannot-tell", *rungs), n=400)
    assert found.outcome == "cannot-tell"
    assert found.queries_needed == pytest.approx(400 * (0.15 * 2.8016 / 1.96 / 0.1) ** 2, rel=0.01)


def test_a_share_on_the_boundary_needs_no_number():
    found = verdict("RAG", store("cannot-tell", ablation("swapped", Estimate(0.10, 0.0, 0.2))), n=400)
    assert found.outcome == "cannot-tell" and found.queries_needed == 0


def test_advice_says_what_a_static_prompt_would_save():
    rungs = (rung("prompt-tuning", ABOVE, 4608), rung("constant", NEAR, 9000), rung("full", ABOVE, 5_300_000))
    static = store("prompt-tuning-like", ablation("swapped", "nothing"))
    found = verdict("MHA-ESP", static, ladder=ladder("prompt-tuning-like", *rungs), n=779)
    told = " ".join(found.advice)
    assert "static prompt" in told and "97% [94, 100]" in told and "4.61 k trained parameters instead of 5.3 M" in told
    savings = Savings(parameters=100_000, static_parameters=500, flops=1.2e9, storage=30_000_000)
    told = " ".join(verdict("MHA-ESP", static, n=779, savings=savings).advice)
    assert "500 trained parameters instead of 100 k, 1.2 G operations less for each query, 30 MB less to store" in told
    assert "saves the store" in " ".join(verdict("MHA-ESP", static, n=779).advice)


def test_advice_for_a_query_driven_pipeline():
    rungs = (rung("prompt-tuning", BELOW, 10), rung("query-only", ABOVE, 2000), rung("full", ABOVE, 9000))
    query = store("query-driven", ablation("swapped", "nothing"))
    told = " ".join(verdict("P-ESP", query, ladder=ladder("query-driven", *rungs), n=779).advice)
    assert "IDPG" in told and "97% [94, 100]" in told and "2 k trained parameters instead of 9 k" in told


@pytest.mark.parametrize(
    ("rise", "words"),
    [
        (Estimate(-0.2, -0.3, -0.1), "lower the loss by another 0.200 [0.100, 0.300]"),
        (Estimate(0, -0.1, 0.1), "little"),
    ],
)
def test_advice_from_the_oracle(rise, words):
    oracle = Ablation("oracle", False, Estimate(1, 1, 1), rise, SHARES["nothing"])
    found = verdict("RAG", store("retrieval-driven", ablation("swapped", "most"), oracle), n=779)
    assert words in " ".join(found.advice)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"leaks": 12}, "12 of the 200 queries out of the store"),
        ({"duplicates": 7}, "7 of 500 entries"),
        ({"hubness": 2.3}, "skewness 2.3"),
        ({"never": 0.8}, "80% of the entries"),
        ({"anisotropy": 0.8, "anisotropy_centred": 0.1}, "mean cosine of 0.80"),
        ({"overlap": Estimate(0.7, 0.6, 0.8)}, "share 70%"),
        ({"contrast": 0.04}, "contrast 0.04"),
    ],
)
def test_advice_from_the_store(changes, words):
    before = verdict("RAG", store(), store_health=health(), n=779)
    after = verdict("RAG", store(), store_health=health(**changes), n=779)
    assert len(after.advice) == len(before.advice) + 1
    assert words in " ".join(after.advice)
    assert after.outcome == before.outcome


def test_a_store_that_is_met_as_chance_has_it_gets_no_advice():
    few = health(entries=3000, queries=100, k=5, hubness=3.4, never=0.87)
    assert few.hubness_chance == pytest.approx(2.44, abs=0.01) and few.never_chance == pytest.approx(0.846, abs=0.001)
    assert verdict("RAG", store(), store_health=few, n=779).advice == verdict("RAG", store(), n=779).advice
