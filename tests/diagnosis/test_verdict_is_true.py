"""Every sentence of an artifact's diagnosis against its numbers, over made-up evidence."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.diagnosis.test_diagnosis_report import full

from coldframe.diagnosis.advice import STATIC_RUNGS, Savings, store_findings
from coldframe.diagnosis.evidence import (
    Ablation,
    Diagnosis,
    Estimate,
    Ladder,
    Rung,
    StoreAblation,
    StoreHealth,
    TokenVariance,
    Verdict,
)
from coldframe.diagnosis.outcomes import ladder_outcome, store_ablation_outcome, token_outcome
from coldframe.diagnosis.report import numbers, read_diagnosis, render_report, write_report
from coldframe.diagnosis.shares import UNDEFINED
from coldframe.diagnosis.verdict import MIN_QUERIES, verdict
from coldframe.reports import markdown
from coldframe.reports.numbers import percent_span, si, span

RETRAINABLE = ("swapped", "random", "fixed", "gaussian", "mean")


@dataclasses.dataclass(frozen=True)
class Evidence:
    store: StoreAblation
    tokens: TokenVariance | None
    ladder: Ladder | None
    health: StoreHealth | None
    savings: Savings | None
    n: int

    @property
    def verdict(self) -> Verdict:
        return verdict("main", self.store, self.tokens, self.ladder, self.health, n=self.n, savings=self.savings)


@st.composite
def estimates(draw: st.DrawFn, low: float = -0.3, high: float = 1.3) -> Estimate:
    value = draw(st.floats(low, high) | st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97]))
    return Estimate(value, value - draw(widths), value + draw(widths), 0.5)


widths = st.sampled_from([0.0, 0.01, 0.04, 0.15, 0.6])


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    """Shares of a gain are defined where it is certain; outcomes follow from the numbers, as in a diagnosis."""
    gain = draw(estimates(-0.5, 1.0))
    certain = gain.low > 0

    def share(low: float = -0.3, high: float = 1.3) -> Estimate:
        return draw(estimates(low, high)) if certain else UNDEFINED

    def ablation(condition: str, retrained: bool) -> Ablation:
        part = share(-0.8, 0.3) if condition == "oracle" else share()
        scale = gain.value if certain else 1.0
        rise = Estimate(*(scale * x for x in (part.value, part.low, part.high))) if certain else draw(estimates(-1, 1))
        return Ablation(condition, retrained, Estimate(1.0, 0.9, 1.1), rise, part)

    conditions = draw(st.lists(st.sampled_from([*RETRAINABLE, "swapped-conditioning", "oracle"]), unique=True))
    again = draw(st.lists(st.sampled_from(RETRAINABLE), unique=True, max_size=2))
    ablations = (*(ablation(name, False) for name in conditions), *(ablation(name, True) for name in again))
    store = StoreAblation(gain, ablations, (), *store_ablation_outcome(gain, ablations))

    tokens = None
    if draw(st.booleans()):
        energy = draw(estimates(0, 1) | st.just(UNDEFINED))
        cosines, mean, alone = (draw(estimates(0, 1)),), share(), share()
        outcome = token_outcome(energy, cosines, mean, alone)
        tokens = TokenVariance(
            1, energy, cosines, (1.0,), 0.5, mean, alone, energy, 0.5, 0.5, 1.0, ((1.0,),), *outcome
        )  # fmt: skip
    ladder = None
    if draw(st.booleans()):
        names = draw(st.lists(st.sampled_from([*STATIC_RUNGS, "query-only"]), unique=True))
        rungs = tuple(
            Rung(name, "", draw(st.integers(1, 10**7)), 1e-3, (), Estimate(1.0, 0.9, 1.1), gain, share(0, 1))
            for name in (*names, "full")
        )
        query = next((rung.share for rung in rungs if rung.name == "query-only"), UNDEFINED)
        rest = Estimate(1 - query.value, 1 - query.high, 1 - query.low)
        ladder = Ladder(rungs, gain, rest, (), 3, *ladder_outcome(rungs, rest))
    number = st.none() | st.integers(1, 10**7)
    savings = Savings(draw(number), draw(number), draw(number), draw(st.none() | st.floats(0, 1e12)), draw(number))
    n = draw(st.sampled_from([1, 2, 29, 30, 60, 779]))
    return Evidence(store, tokens, ladder, draw(st.none() | stores(n)), draw(st.none() | st.just(savings)), n)


@st.composite
def stores(draw: st.DrawFn, n: int) -> StoreHealth:
    unit = st.floats(0, 1)
    entries, k = draw(st.integers(1, 5000)), draw(st.integers(1, 5))
    most = draw(st.integers(0, n))
    health = StoreHealth(
        entries, n, min(k, entries), draw(st.floats(-1, 40)), draw(unit), draw(unit), draw(unit), draw(estimates(0, 1)),
        draw(st.floats(0, 0.2)), draw(st.floats(0, 2) | st.just(math.nan)), draw(unit),
        draw(unit | st.just(math.nan)), draw(unit | st.just(math.nan)),
        draw(st.sampled_from([0, 0, 1, 7])), draw(st.sampled_from([0, 0, 1, min(n, 3)])), ((1, most),), (),
    )  # fmt: skip
    return dataclasses.replace(health, warnings=tuple(warning for warning, _ in store_findings(health)))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(evidence())
def test_the_headline_is_true(e: Evidence) -> None:
    conclusion, gain = e.verdict, e.store.gain
    line, outcome = conclusion.headline, conclusion.outcome
    assert "nan" not in " ".join([line, *conclusion.reasons, *conclusion.advice]).lower()
    if e.n < MIN_QUERIES:
        assert outcome == "cannot-tell" and f"{e.n} quer" in line and "too few" in line
        return
    if not gain.low > 0:
        assert outcome == "cannot-tell" and "no gain to explain" in line and span(gain, 3) in line
        assert ("is higher than" in line) == (gain.high < 0)
        return
    if outcome == "cannot-tell":
        assert line.startswith("Cannot tell what the gain of main comes from")
        return
    assert line.startswith(f"main is {outcome}: ")
    says = {name: part.outcome for name, part in parts(e).items()}
    # Two that say the same, or the store ablation for itself, or two that outrank and differ.
    agree = [name for name, own in says.items() if own == outcome]
    if " disagree about its gain " in line:
        assert outcome == "mixed" and says["Store ablation"] != says["Ladder"]
        assert "cannot-tell" not in (says["Store ablation"], says["Ladder"])
        return
    assert len(agree) >= 2 or (e.ladder is None and says["Store ablation"] == outcome)
    for words, outcomes in {
        "agree": [says.get(name) for name in parts(e) if name.lower() in line],
        "alone": [says["Store ablation"]] if e.ladder is None else [None],
    }.items():
        if re.search(rf"{words}\)\.$", line):
            assert set(outcomes) == {outcome}
    deciding = [row for row in e.store.ablations if not row.retrained and row.condition in RETRAINABLE]
    if not deciding:
        assert "is lost without" not in line
        return
    first = min(deciding, key=lambda row: RETRAINABLE.index(row.condition))
    assert f"{percent_span(first.share)} of it is lost without what is retrieved" in line
    if "Store ablation" in agree:
        low, high = first.share.low, first.share.high
        true = {"retrieval-driven": low > 0.5, "query-driven": high < 0.1, "prompt-tuning-like": high < 0.1}
        assert true.get(outcome, True)


def parts(e: Evidence) -> dict[str, Any]:
    named = {"Store ablation": e.store, "Token variance": e.tokens, "Ladder": e.ladder}
    return {name: part for name, part in named.items() if part is not None}


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(evidence())
def test_every_reason_is_true(e: Evidence) -> None:
    for (name, part), line in zip(parts(e).items(), e.verdict.reasons, strict=True):
        assert line.startswith(f"{name}: ") and part.reason in line
        # From too few queries not even one diagnostic concludes anything.
        shown = part.outcome.replace("-tell", " tell")
        assert line.startswith(f"{name}: {shown}. ") == (e.n >= MIN_QUERIES) or part.reason.startswith(shown)
    reason = e.store.reason
    if e.store.gain.low > 0:
        for row in e.store.ablations:
            if row.retrained and f"under the condition {row.condition!r}" in reason:
                assert percent_span(row.share) in reason
        if "may be less than 10% or more" in reason:
            shares = [row.share for row in e.store.ablations if row.condition in RETRAINABLE]
            assert any(share.low <= 0.1 <= share.high for share in shares)
        if "disagree" in reason:
            shares = [row.share for row in e.store.ablations if row.condition in RETRAINABLE]
            assert any(share.high < 0.1 for share in shares) and any(share.low > 0.1 for share in shares)
    if e.tokens is not None and e.store.gain.low > 0:
        assert percent_span(e.tokens.mean_share) in e.tokens.reason
        if "nearly the same for all" in e.tokens.reason:
            assert e.tokens.cosines[0].value > 0.99 or e.tokens.energy_share.value < 0.01
    if e.ladder is not None and e.store.gain.low > 0:
        shares = {rung.name: rung.share for rung in e.ladder.rungs}
        static = {name: shares[name] for name in STATIC_RUNGS if name in shares}
        if match := re.search(r"The best static prompt \(([a-z-]+)\)", e.ladder.reason):
            assert static[match[1]].value == max(share.value for share in static.values())
            assert percent_span(static[match[1]]) in e.ladder.reason
        else:
            assert not static and "No static prompt was trained" in e.ladder.reason
        if "Whether one of them reaches 90% is open" in e.ladder.reason:
            reached = [share for name, share in shares.items() if name != "full"]
            assert any(share.low <= 0.9 <= share.high for share in reached)
        if "A prompt from the query alone was not trained" in e.ladder.reason:
            assert "query-only" not in shares


@pytest.mark.slow
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(evidence())
def test_every_advice_follows_from_the_numbers(e: Evidence) -> None:
    conclusion, gain = e.verdict, e.store.gain
    outcome, text = conclusion.outcome, " ".join(conclusion.advice)
    few = e.n < MIN_QUERIES
    assert ("Leave the pipeline out" in text) == (gain.high < 0 and not few)
    assert ("Keep the retriever." in text) == (outcome == "retrieval-driven")
    assert ("Weigh what retrieval adds" in text) == (outcome == "mixed")
    if match := re.search(r"about ([\d,]+) would tell .*, and (\d+) were asked", text):
        assert outcome == "cannot-tell" and not few
        assert int(match[1].replace(",", "")) > e.n == int(match[2])
        assert conclusion.queries_needed > e.n
    else:
        assert conclusion.queries_needed == (MIN_QUERIES if few else 0)
    if few:
        assert f"Ask {MIN_QUERIES} queries or more; {e.n} w" in text
        assert not re.search("Replace|Keep|Improve|Train the ladder|Weigh|ranking", text)
        return
    rungs = {rung.name: rung for rung in e.ladder.rungs} if e.ladder else {}
    static = [rungs[name] for name in STATIC_RUNGS if name in rungs]
    if "Replace it with a static prompt" in text:
        assert outcome == "prompt-tuning-like"
        if static:
            best = max(static, key=lambda rung: rung.share.value)
            assert f"({STATIC_RUNGS[best.name]}): trained for it, it reaches {percent_span(best.share)}" in text
        else:
            assert "(Prompt Tuning)." in text
    if "Replace the retriever with a prompt from the query alone" in text:
        assert outcome == "query-driven"
        assert ("trained for it, it reaches" in text) == ("query-only" in rungs)
    for after, before in re.findall(r"(\S+(?: [kMG])?) trained parameters instead of ([\d.e+]+(?: [kMG])?)", text):
        scale = {"k": 1e3, "M": 1e6, "G": 1e9}
        sizes = [float(x.split()[0]) * scale.get(x.split()[-1], 1.0) for x in (after, before)]
        assert sizes[0] <= sizes[1], "what is saved is less"
    saved = e.savings or Savings()
    if "operations less" in text:
        assert saved.flops and si(saved.flops) in text
    if "less to store" in text:
        assert saved.storage and si(saved.storage) in text
    if "saves the store, the search" in text:
        assert saved == Savings() and not rungs, "said only where nothing is known"
    oracle = next((row for row in e.store.ablations if row.condition == "oracle"), None)
    if "Improve the retriever" in text:
        assert oracle is not None and oracle.rise.high < 0
    if "A better ranking wins little" in text:
        assert oracle is not None and oracle.share.low > -0.1 and not oracle.rise.high < 0
    if "Whether a better ranking pays is open" in text:
        assert oracle is not None and oracle.rise.low < 0 <= oracle.rise.high
    if "Whether a better store or a better search pays was not measured" in text:
        assert oracle is None
    if "Train the ladder" in text:
        assert e.ladder is None and gain.low > 0


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.sampled_from([1, 30, 779]).flatmap(stores))
def test_every_warning_about_the_store_is_true(health: StoreHealth) -> None:
    text = " ".join(health.warnings)
    assert "nan" not in text.lower()
    if "nearly the same" in text:
        assert health.overlap.low > 0.5
    if "many of the same entries" in text:
        assert 0.1 < health.overlap.low <= 0.5
    if match := re.search(r"one entry is retrieved for (\d+)% of the queries", text):
        assert abs(health.curve[0][1] / health.queries - int(match[1]) / 100) <= 0.005 + 1e-9
    if "never retrieved" in text:
        assert health.never > health.never_chance
    if "similar directions" in text:
        assert health.anisotropy > 0.5
    assert (f"{health.duplicates} of {health.entries} entries are duplicates" in text) == bool(health.duplicates)
    assert (f"{health.leaks} of {health.queries} queries are in the store" in text) == bool(health.leaks)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(evidence())
def test_the_report_says_what_the_numbers_say_and_is_strict_json(e: Evidence) -> None:
    shown = dataclasses.replace(
        full(), n=e.n, verdict=e.verdict, store_ablation=e.store, token_variance=e.tokens, ladder=e.ladder,
        store_health=e.health,
    )  # fmt: skip
    page = render_report(shown)
    badges = re.findall(r'class="badge [a-z]+"[^>]*>([a-z -]+)<', page.partition("What the words mean")[0])
    if e.n < MIN_QUERIES:
        assert set(badges) <= {"cannot tell"}, "no verdict of a part either"
    assert "nan" not in markdown.render(numbers(shown)).lower().replace("nansimilar", "")


def test_what_is_written_is_strict_json_and_comes_back(tmp_path: Path) -> None:
    nothing = StoreAblation(
        UNDEFINED, (Ablation("swapped", False, UNDEFINED, UNDEFINED, UNDEFINED),), (), "cannot-tell", ""
    )
    diagnosis = dataclasses.replace(full(), store_ablation=nothing, ladder=None)
    write_report(diagnosis, tmp_path / "diagnosis.html")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    values = json.loads((tmp_path / "diagnosis.json").read_text(), parse_constant=refuse)
    assert values["store_ablation"]["gain"]["value"] is None
    again = read_diagnosis(tmp_path / "diagnosis.json")
    assert math.isnan(again.store_ablation.gain.value) and again.ladder is None and again.verdict == diagnosis.verdict
    assert isinstance(again, Diagnosis)
