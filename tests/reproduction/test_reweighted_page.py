"""The page on a reweighted model and its verdict."""

from __future__ import annotations

import dataclasses
import re

import pytest
from reproduction.reweighted.data import QuestionSet, Reweighted
from reproduction.reweighted.report import render_markdown, render_page
from reproduction.reweighted.scores import Cell, Gap, Overall
from reproduction.reweighted.verdict import judge
from tests.reports.pages import whole

from coldframe.evaluation.head_gains import Head, HeadGains
from coldframe.inference.intervals import Interval

GAINS = HeadGains(
    ((0.0, 0.5), (-2.0, 0.02)),
    (Head(0, 1, 0.5, 0.8),),
    (
        {"step": 0.0, "validation_loss": 3.0},
        {"step": 2.0, "validation_loss": 2.0},
        {"step": 4.0, "validation_loss": 2.5},
    ),
    0.7,
)


def span(value: float, half: float = 1.0) -> Interval:
    return Interval(value, value - half, value + half, n=50)


def measured(value: float, random: float) -> Reweighted:
    cells = [
        Cell("2wiki", "base", "contains", span(30.0)),
        Cell("2wiki", "pear", "contains", span(30 + value), Gap(span(value), 40.0, 3140)),
    ]
    overall = [
        Overall("pear", "base", "contains", span(value)),
        Overall("random", "base", "contains", span(random)),
        Overall("pear", "random", "contains", span(value - random)),
        Overall("pear", "base", "loss", span(-0.3, 0.1)),
    ]
    retained = [Cell("MMLU-Pro", "pear", "accuracy", span(11.0), Gap(span(0.2), 9.0, 159))]
    sets = (QuestionSet("2wiki", 50, 50, 10.0, 900.0, 2),)
    return Reweighted(
        "tiny", GAINS, {"base": [0], "pear": [0], "random": [0]}, sets, tuple(cells), tuple(overall), tuple(retained),
        {"base": [[3.0, 2.0]], "pear": [[2.5, 1.5]]}, notes=("<b>bold</b>",), command="run it", seconds=3.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "outcome", "words"),
    [(3.0, "gain", "better"), (-3.0, "loss", "worse"), (0.5, "undecided", "cannot be told")],
)
def test_the_verdict_goes_by_what_the_interval_excludes(value: float, outcome: str, words: str) -> None:
    verdict = judge(measured(value, 0.0))
    assert verdict.outcome == outcome and words in verdict.headline and "2wiki" in verdict.headline


def test_few_questions_decide_nothing() -> None:
    data = measured(3.0, 0.0)
    few = tuple(dataclasses.replace(gap, interval=dataclasses.replace(gap.interval, n=12)) for gap in data.overall)
    verdict = judge(dataclasses.replace(data, overall=few))
    assert verdict.outcome == "undecided" and "12 questions are too few" in verdict.reasons[0]


def test_a_control_that_does_as_well_is_held_against_it() -> None:
    alike, better = judge(measured(3.0, 2.8)), judge(measured(3.0, 0.0))
    assert any("not shown to come from these heads" in reason for reason in alike.reasons)
    assert any("PEAR is better than it" in reason for reason in better.reasons)
    assert any("3,140 questions; 50 were asked" in reason for reason in better.reasons)
    assert any(reason.startswith("MMLU-Pro") and "no difference found" in reason for reason in better.reasons)
    assert any("more likely" in reason for reason in better.reasons)


def test_without_questions_the_verdict_says_that_nothing_was_asked() -> None:
    verdict = judge(Reweighted("tiny", GAINS))
    assert verdict.outcome == "undecided" and "falls from 3.000 to 2.000" in verdict.headline
    assert "Whether it answers better was not measured" in verdict.headline
    assert "not measured" in judge(Reweighted("tiny")).headline


@pytest.mark.parametrize("data", [measured(3.0, 0.0), Reweighted("tiny", GAINS), Reweighted("<script>", None)])
def test_the_page_is_whole_loads_nothing_and_escapes(data: Reweighted) -> None:
    html = render_page(data, "results.json")
    page = whole(html)
    assert "<b>bold" not in html and "<script>" not in html
    assert page.text.index(judge(data).headline) < page.text.index("What the words mean")


def test_the_map_has_every_effect_and_marks_the_chosen_heads() -> None:
    html = render_page(Reweighted("tiny", GAINS))
    shades = dict(re.findall(r'<path class="(?:above|below)" opacity="([\d.]+)" d="([^"]+)"', html))
    # The strength is the root of the effect: 2.0 is full, 0.5 half, 0.02 a tenth.
    assert shades == {"1.0": "M0 1h1v1h-1z", "0.5": "M1 0h1v1h-1z", "0.1": "M1 1h1v1h-1z"}
    assert "0.1: effect +0.500, gain 0.800" in html and html.count('class="chosen"') == 1
    empty = render_page(Reweighted("tiny", dataclasses.replace(GAINS, effects=((0.0,),))))
    assert 'class="above" opacity' not in empty


@pytest.mark.slow
def test_the_loss_is_drawn_where_gains_were_trained() -> None:
    title = "Loss while the gains were trained"
    assert title in render_page(Reweighted("tiny", GAINS))
    one_look = dataclasses.replace(GAINS, history=GAINS.history[:2])
    assert title in render_page(Reweighted("tiny", one_look))
    untrained = tuple({"step": 0.0, "validation_loss": loss} for loss in (3.0, 2.0))
    assert title not in render_page(Reweighted("tiny", dataclasses.replace(GAINS, history=untrained)))
    unmeasured = Reweighted("tiny", dataclasses.replace(GAINS, history=()))
    assert title not in render_page(unmeasured) and "held-out" not in render_page(unmeasured)
    assert judge(unmeasured).headline == "1 head of tiny has a gain. Whether it answers better was not measured."


def test_markdown_has_the_numbers_of_the_figures() -> None:
    data, places = measured(3.0, 0.0), (0, 4)
    cells = [
        Cell("2wiki", system, "contains", span(30.0 + place), place=place)
        for system in data.systems
        for place in places
    ]
    sets = (dataclasses.replace(data.sets[0], places=places),)
    data = dataclasses.replace(data, cells=(*data.cells, *cells), sets=sets)
    text = render_markdown(data)
    for line in (
        "### 2wiki",
        "| answer contained by place | 1 | 5 |",
        "| pear | 30.0 [29.0, 31.0] | 34.0 [33.0, 35.0] |",
        "### What it must keep",
        "### Loss of a copy, by place",
        "| system | 2 |",
        "| pear | 2.500 |",
        "run it",
    ):
        assert line in text, line
    assert "the gold document at 1, 5" in text and "Where the gold document stands" in render_page(data)


def test_data_travel() -> None:
    data = measured(3.0, 0.0)
    assert Reweighted.from_dict(data.to_dict()) == data
