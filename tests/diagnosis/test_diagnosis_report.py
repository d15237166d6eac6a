"""The page of a diagnosis: whole, self-contained, with hostile words as text; and the terminal's table."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
from pathlib import Path

import pytest
from rich.console import Console
from tests.reports.pages import HOSTILE, Page, whole

from coldframe.diagnosis import figures
from coldframe.diagnosis.evidence import (
    Ablation,
    Control,
    Diagnosis,
    Estimate,
    Ladder,
    Rung,
    StoreAblation,
    StoreHealth,
    TokenVariance,
    Verdict,
)
from coldframe.diagnosis.report import OUTCOMES, read_diagnosis, render_report, render_table, write_report
from coldframe.diagnosis.subject import CONDITIONS

NAN = float("nan")
UNDEFINED = Estimate(NAN, NAN, NAN)


def about(value: float, width: float = 0.05, p_value: float = NAN) -> Estimate:
    return Estimate(value, value - width, value + width, p_value)


def ablation(condition: str, share: float, *, retrained: bool = False, width: float = 0.05) -> Ablation:
    rise = about(0.4 * share, 0.4 * width, 0.0004)
    return Ablation(condition, retrained, about(0.6 + rise.value), rise, about(share, width))


def full(word: str = "") -> Diagnosis:
    """A diagnosis with every part; ``word`` goes into every free text."""
    shares = {"swapped": 0.72, "swapped-conditioning": 0.91, "random": 0.8, "fixed": 0.66, "shuffled": 0.3, "mean": 0.7}
    store = StoreAblation(
        gain=about(0.4, 0.03, 0.0001),
        ablations=(
            *(ablation(condition, share) for condition, share in shares.items()),
            ablation("gaussian", 1.9, width=0.6),
            ablation("oracle", -0.2),
            ablation("random", 0.55, retrained=True),
        ),
        missing=(("oracle" + word, "no answers" + word),),
        outcome="retrieval-driven",
        reason="reason 1" + word,
    )
    tokens = TokenVariance(
        tokens=3,
        energy_share=about(0.31),
        cosines=(about(0.7), about(0.82), about(0.64)),
        effective_ranks=(7.2, 5.1, 9.9),
        given_query=0.44,
        mean_share=about(0.62),
        predicted_share=about(0.35),
        divergence=about(0.12),
        probe=0.55,
        probe_chance=0.2,
        probe_p_value=0.005,
        similarity=tuple(tuple(math.cos(0.4 * (i - j)) for j in range(12)) for i in range(12)),
        outcome="mixed",
        reason="reason 2" + word,
    )
    gains = (
        ("prompt-tuning", 0.11),
        ("reparameterised", 0.16),
        ("constant", 0.14),
        ("query-only", 0.25),
        ("full", 0.4),
    )
    ladder = Ladder(
        rungs=tuple(
            Rung(
                name,
                name + " in words" + word,
                10_000 * (i + 1),
                0.003,
                ((0.001, 0.9), (0.003, 0.8), (0.01, 0.85)) if name != "full" else ((0.003, 0.7),),
                about(1 - gain),
                about(gain, 0.02),
                about(gain / 0.4),
            )
            for i, (name, gain) in enumerate(gains)
        ),
        gap=about(0.15),
        retrieval=about(0.375),
        controls=(Control("1-NN vote" + word, 0.82, 0.71), Control("forest" + word, NAN, 0.74)),
        seeds=3,
        outcome="retrieval-driven",
        reason="reason 3" + word,
    )
    health = StoreHealth(
        entries=3113,
        queries=779,
        k=5,
        hubness=2.31,
        never=0.4,
        gini=0.61,
        entropy=0.83,
        overlap=about(0.03, 0.01),
        overlap_chance=0.001,
        contrast=0.9,
        score_gap=0.12,
        anisotropy=0.21,
        anisotropy_centred=0.01,
        duplicates=0,
        leaks=2,
        curve=tuple((1 + i * i, round(40 / (1 + i))) for i in range(40)),
        warnings=("leaks" + word,),
    )
    return Diagnosis(
        subject="pipeline" + word,
        task="task" + word,
        model="model" + word,
        unit="nats" + word,
        n=779,
        seeds=3,
        verdict=Verdict(
            "retrieval-driven", "headline" + word, ("why 1" + word, "why 2" + word), ("do this" + word,), 0
        ),
        store_ablation=store,
        token_variance=tokens,
        ladder=ladder,
        store_health=health,
        notes=("note" + word,),
        command="coldframe diagnose" + word,
        seconds=63.2,
    )


def bare() -> Diagnosis:
    """The least there is, and no gain: every share is undefined."""
    store = StoreAblation(
        gain=about(0.01, 0.05, 0.6),
        ablations=(Ablation("swapped", False, about(0.5), about(0.0), UNDEFINED),),
        missing=(),
        outcome="cannot-tell",
        reason="no gain",
    )
    verdict = Verdict("cannot-tell", "Cannot tell.", (), (), 4000)
    return Diagnosis("chain", "questions", "unknown", "nats", 64, 1, verdict, store)


@pytest.mark.parametrize("diagnosis", [full(), full(HOSTILE), bare()], ids=["full", "hostile", "bare"])
def test_the_page_is_whole_and_loads_nothing(diagnosis: Diagnosis) -> None:
    assert "img" not in whole(render_report(diagnosis)).tags


def test_hostile_words_are_text_everywhere() -> None:
    text = Page(render_report(full(HOSTILE))).text
    for start in ("pipeline", "task", "model", "nats", "headline", "why 1", "why 2", "do this", "note", "oracle",
                  "no answers", "in words", "1-NN vote", "forest", "leaks", "coldframe diagnose"):  # fmt: skip
        assert start + HOSTILE in text, start


def test_the_verdict_stands_first_and_parts_only_with_data() -> None:
    everything, little = Page(render_report(full())).text, Page(render_report(bare())).text
    body = everything[everything.index("coldframe diagnosis ·") :]
    assert body.index("headline") < body.index("why 1") < body.index("do this") < body.index("Is the store needed?")
    for heading in ("Do the soft tokens follow", "Is the store in order?", "Each token", "without a language model"):
        assert heading in everything and heading not in little
    assert "has to train" in little and "--ladder" in little
    assert "not significantly above 0" in little and "not significantly above 0" not in everything
    for _, meaning in OUTCOMES.values():
        assert meaning in little


def test_numbers_are_those_of_the_evidence() -> None:
    text = " ".join(Page(render_report(full())).text.split())
    assert "72% [67, 77]" in text  # share of the swapped entries
    assert "0.400 [0.370, 0.430]" in text  # the gain
    assert "The full pipeline against the best rung below it: 0.150 [0.100, 0.200]" in text
    assert not re.search(r"\bnan\b", text)


@pytest.mark.slow
def test_writing_and_reading_again(tmp_path: Path) -> None:
    for name, diagnosis in (("full", full(HOSTILE)), ("bare", bare())):
        path = tmp_path / name / "diagnosis.html"
        write_report(diagnosis, path)
        assert sorted(file.name for file in path.parent.iterdir()) == ["diagnosis.html", "diagnosis.json"]

        def refuse(constant: str) -> None:
            raise AssertionError(f"bare {constant}")

        json.loads(path.with_suffix(".json").read_text(), parse_constant=refuse)
        again = read_diagnosis(path.with_suffix(".json"))
        assert repr(again) == repr(diagnosis)  # as text, because NaN does not equal itself
        assert render_report(again) == path.read_text()


def test_the_forest_of_shares() -> None:
    forest = figures.ablations(full().store_ablation)
    bars = {bar.name: bar for bar in forest.bars}
    assert bars["gaussian"].high == pytest.approx(250)  # 1.3 to 2.5: cut at 1.5, with an arrow
    assert forest.axis.within(bars["gaussian"].high) == 100
    assert bars["swapped"].kind == "main" and bars["swapped"].value == pytest.approx(72)
    assert bars["random, trained again"].kind == "control" and bars["random"].kind == "method"
    assert forest.lines == (10, 50) and [zone[2] for zone in forest.zones] == ["loss", "gain"]
    assert '<path class="arrow method"' in render_report(full())


def test_without_a_gain_the_forest_shows_rises() -> None:
    forest = figures.ablations(bare().store_ablation)
    assert forest.title == "rise of the loss" and not forest.zones and forest.lines == (0.0,)
    assert forest.bars[0].value == 0 and forest.bars[0].text == "0.000 [−0.050, 0.050]"


def test_without_a_gain_tokens_have_no_shares_to_draw() -> None:
    tokens = dataclasses.replace(full().token_variance, mean_share=UNDEFINED, predicted_share=UNDEFINED)  # type: ignore[type-var]
    assert figures.tokens(tokens) is None
    text = Page(render_report(dataclasses.replace(bare(), token_variance=tokens))).text
    assert "The cosine between the tokens of each two of 12 queries" in text and "What counts is the share" not in text


def test_the_waterfall_goes_from_step_to_step() -> None:
    ladder = full().ladder
    assert ladder is not None
    forest = figures.ladder(ladder)
    rungs, controls = forest.bars[:5], forest.bars[5:]
    assert rungs[0].start == 0 and rungs[-1].value == 0.4 and forest.lines == (0.0, 0.4)
    assert [bar.start for bar in rungs[1:]] == [bar.value for bar in rungs[:-1]]
    assert rungs[2].value < rungs[2].start  # the constant one is worse than the one above it
    assert 'class="step down"' in render_report(full())
    # The model alone has a loss of 1: the vote's 0.82 is a gain of 0.18. The forest has no loss, and is left out.
    assert [(bar.name, bar.text, bar.start) for bar in controls] == [("1-NN vote", "0.180", 0.0)]


def test_the_scale_of_the_heatmap_begins_below_all_cosines() -> None:
    heatmap, low = figures.heatmap([[1.0, 0.31, -0.5], [0.31, 1.0, NAN], [-0.5, 0.0, 1.0]])
    assert low == 0 and {strength for strength, _ in heatmap.shades} == {1, 0.3, -0.5}
    heatmap, low = figures.heatmap([[1.0, 0.95], [0.95, 1.0]])
    assert low == 0.9 and [strength for strength, _ in heatmap.shades] == [0.5, 1.0]
    tokens = dataclasses.replace(full().token_variance, similarity=((1.0,),))  # type: ignore[type-var]
    assert "How alike" not in render_report(dataclasses.replace(full(), token_variance=tokens))


def test_the_hubness_curve_stands_beside_chance() -> None:
    health = full().store_health
    assert health is not None
    chart = figures.hubness(health)
    assert chart is not None and [line.name for line in chart.lines] == ["as retrieved", "random retrieval"]
    own, chance = (line.points for line in chart.lines)
    assert own[0] == (1, 40) and own[0][1] > 2 * chance[0][1]  # the first entry is found far more often than by chance
    assert figures.hubness(dataclasses.replace(health, curve=())) is None
    # All entries together are retrieved as often as there are retrievals.
    assert sum(figures.counts_by_chance(2.5, 4000, range(1, 4001))) == pytest.approx(10_000, rel=0.01)


def test_the_table_of_the_terminal() -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(render_table(full("[red]x[/red]")))
    text = out.getvalue()
    assert text.index("headline[red]x[/red]") < text.index("swapped") and "72% [67, 77]" in text
    assert "query and what was retrieved" in text and "do this[red]x[/red]" in text
    out = io.StringIO()
    Console(file=out, width=200).print(render_table(bare()))
    assert "Cannot tell." in out.getvalue() and "nan" not in out.getvalue()


def test_every_condition_has_words_in_the_table() -> None:
    text = " ".join(Page(render_report(full())).text.split())
    for row in full().store_ablation.ablations:
        assert CONDITIONS[row.condition] in text  # type: ignore[index]
