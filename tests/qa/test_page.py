"""The page on a reweighted model and its verdict."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser

import pytest

from coldframe.evaluation.answers.evaluate import Cell, Overall
from coldframe.evaluation.answers.scores import Gap
from coldframe.evaluation.intervals import Interval
from coldframe.evaluation.reweighted import figures
from coldframe.evaluation.reweighted.data import Asked, Found, Head, Reweighted
from coldframe.evaluation.reweighted.page import render_page
from coldframe.evaluation.reweighted.verdict import judge

FOUND = Found(
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
    asked = (Asked("2wiki", 50, 50, 10.0, 900.0, 2),)
    return Reweighted(
        "tiny", FOUND, {"base": [0], "pear": [0], "random": [0]}, asked, tuple(cells), tuple(overall), tuple(retained),
        {"base": [[3.0, 2.0]], "pear": [[2.5, 1.5]]}, notes=("<b>bold</b>",), command="run it", seconds=3.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "outcome", "words"),
    [(3.0, "gain", "better"), (-3.0, "loss", "worse"), (0.5, "undecided", "cannot be told")],
)
def test_the_verdict_goes_by_what_the_interval_excludes(value: float, outcome: str, words: str) -> None:
    said = judge(measured(value, 0.0))
    assert said.outcome == outcome and words in said.headline and "2wiki" in said.headline


def test_few_questions_decide_nothing() -> None:
    data = measured(3.0, 0.0)
    few = tuple(dataclasses.replace(one, interval=dataclasses.replace(one.interval, n=12)) for one in data.overall)
    said = judge(dataclasses.replace(data, overall=few))
    assert said.outcome == "undecided" and "12 questions are too few" in said.reasons[0]


def test_a_control_that_does_as_well_is_held_against_it() -> None:
    alike, better = judge(measured(3.0, 2.8)), judge(measured(3.0, 0.0))
    assert any("not shown to come from these heads" in reason for reason in alike.reasons)
    assert any("PEAR is better than it" in reason for reason in better.reasons)
    assert any("3,140 questions; 50 were asked" in reason for reason in better.reasons)
    assert any(reason.startswith("MMLU-Pro") and "no difference found" in reason for reason in better.reasons)
    assert any("more likely" in reason for reason in better.reasons)


def test_without_questions_the_verdict_says_that_nothing_was_asked() -> None:
    said = judge(Reweighted("tiny", FOUND))
    assert said.outcome == "undecided" and "falls from 3.000 to 2.000" in said.headline
    assert "Whether it answers better was not measured" in said.headline
    assert "not measured" in judge(Reweighted("tiny")).headline


class Tags(HTMLParser):
    """Checks that what is opened is closed, and collects what is shown."""

    VOID = {"meta", "br", "img", "line", "rect", "circle", "path", "polyline", "polygon"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("data", [measured(3.0, 0.0), Reweighted("tiny", FOUND), Reweighted("<script>", None)])
def test_the_page_is_whole_loads_nothing_and_escapes(data: Reweighted) -> None:
    html = render_page(data, "results.json")
    tags = Tags()
    tags.feed(html)
    assert not tags.open and "script" not in tags.seen and "link" not in tags.seen
    assert "default-src 'none'" in html and "<b>bold" not in html and "<script>" not in html
    assert html.index("verdict") < html.index("What the words mean")


def test_the_map_has_every_effect_and_marks_the_chosen_heads() -> None:
    found = figures.head_map(FOUND)
    assert (found.layers, found.heads, found.top) == (2, 2, 2.0)
    shades = {shade.path: (shade.sign, shade.strength) for shade in found.shades}
    assert shades == {"M0 1h1v1h-1z": ("below", 1.0), "M1 0h1v1h-1z": ("above", 0.5), "M1 1h1v1h-1z": ("above", 0.1)}
    assert found.chosen == FOUND.heads
    empty = figures.head_map(dataclasses.replace(FOUND, effects=((0.0,),)))
    assert empty.shades == ()
    assert figures.training(FOUND) is not None
    assert figures.training(dataclasses.replace(FOUND, history=FOUND.history[:2])) is not None  # one look, but trained
    given = tuple({"step": 0.0, "validation_loss": loss} for loss in (3.0, 2.0))
    assert figures.training(dataclasses.replace(FOUND, history=given)) is None


def test_data_travel() -> None:
    data = measured(3.0, 0.0)
    assert Reweighted.from_dict(data.to_dict()) == data
