"""Every sentence of a verdict against its numbers, over made-up results: a false sentence is worse than none."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldframe.evaluation.compare import Difference
from coldframe.evaluation.comparison import Comparison
from coldframe.evaluation.report import render_markdown
from coldframe.evaluation.report_data import MethodRow, ReportData, Score, TrainingCurve
from coldframe.evaluation.verdict import COARSE, FEWEST, verdict
from coldframe.inference.intervals import Interval
from coldframe.reports.numbers import DASH, MetricInfo

INFOS = (
    MetricInfo("accuracy", "Accuracy"),
    MetricInfo("mcc", "MCC", decimals=3),
    MetricInfo("log_loss", "Log loss", higher=False, decimals=3),
)
NAMES = {
    "method": ("icl", "idpg", "p-esp"),
    "control": ("main, swapped store", "main, shuffled labels"),
    "no-lm": ("1-NN vote", "random forest"),
}


@st.composite
def results(draw: st.DrawFn) -> ReportData:
    info = draw(st.sampled_from(INFOS))
    scale = 100.0 if info.decimals == 1 else 1.0
    full = draw(st.sampled_from([2, 10, 29, 30, 60, 779]))
    number = st.floats(0, scale) | st.just(math.nan)

    def score(value: float, n: int) -> tuple[Score, ...]:
        half = 0.0 if math.isnan(value) else draw(st.floats(0, scale / 4))
        return (Score(info.name, Interval(value, value - half, value + half, n=n, seeds=draw(st.integers(1, 5)))),)

    own = draw(number)
    rows = [MethodRow("main", draw(st.sampled_from(["method", "method", "no-lm"])), score(own, full))]
    for role, names in NAMES.items():
        for name in names:
            if draw(st.booleans()):
                n = draw(st.sampled_from([full, min(full, 60), min(full, 5)]))
                value = draw(number)
                below, above = draw(st.floats(0, scale / 3)), draw(st.floats(0, scale / 3))
                smallest = draw(st.floats(0, scale / 3) | st.just(math.nan))
                gap = own - value
                difference = Difference(gap, gap - below, gap + above, n=n, p_value=0.5, smallest=smallest)
                rows.append(MethodRow(name, role, score(value, n), difference))  # type: ignore[arg-type]
    kind = draw(st.sampled_from(["classification", "generation"]))
    return ReportData("task", "model", "main", info.name, (info,), tuple(rows), kind=kind)


def tells(data: ReportData, difference: Difference) -> str:
    """The outcome, written anew: by rows, by the interval, by which way is better."""
    if difference.n < FEWEST or not (difference.low > 0 or difference.high < 0):
        return "undecided"
    return "gain" if (difference.value > 0) == data.primary.higher else "loss"


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(results())
def test_every_comparison_says_what_its_numbers_say(data: ReportData) -> None:
    rows = {row.name: row for row in data.rows}
    found = verdict(data)
    assert len(found.comparisons) == len(data.rows) - 1
    for comparison in found.comparisons:
        difference = rows[comparison.name].difference
        assert difference is not None
        assert comparison.outcome == tells(data, difference)
        beginning = {"gain": "Better than", "loss": "Worse than", "undecided": ("Cannot be told from", "Not compared")}
        assert comparison.text.startswith(beginning[comparison.outcome]) and comparison.name in comparison.text
        if math.isnan(difference.value):
            assert "is not defined" in comparison.text
            continue
        assert data.primary.show(difference.value, sign=True) in comparison.text
        own = data.main_row.score(data.metric)
        assert own is not None
        counts = [int(n.replace(",", "")) for n in re.findall(r"on ([\d,]+) rows?", comparison.text)]
        assert counts == ([] if difference.n == own.n else [difference.n]), "rows other than the score's are told"


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(results())
def test_the_headline_is_true(data: ReportData) -> None:
    found, line = verdict(data), verdict(data).headline
    own = data.main_row.score(data.metric)
    assert own is not None
    if math.isnan(own.value):
        assert "not defined" in line and "nothing is concluded" in line
        return
    assert f"n = {own.n}," in line and data.primary.show(own.value) in line and DASH not in line
    rivals = [row for row in data.ranked() if row.role == "no-lm" and row.name != "main"]
    rivals = [row for row in rivals if row.difference and math.isfinite(row.difference.value)]
    blames = "The language model does not earn its place" in line
    if data.main_row.role == "no-lm":
        assert "uses no language model" in line and not blames
        return
    if blames or "main does not earn its place" in line:
        best = rivals[0]
        assert best.difference is not None and tells(data, best.difference) == "loss" == found.outcome
        assert best.name in line and best.difference.n >= FEWEST
        ahead = [row for row in data.ranked() if row.role == "method"]
        ahead = ahead[: sum(data.ranked().index(row) < data.ranked().index(best) for row in ahead)]
        assert bool(ahead) != blames, "the model is blamed only where no method with it scores higher"
        assert blames or ahead[0].name in line
    if ": +" in line or "against" in line:
        assert found.outcome == "gain"
    if "no control without a language model was run" in line:
        assert not any(row.role == "no-lm" for row in data.rows) and found.outcome is None
    if "not defined, so nothing is concluded" in line:
        assert not rivals and found.outcome is None
    if "cannot tell these apart" in line:
        assert found.outcome == "undecided"
    if "too few to conclude" in line:
        smallest = min(row.difference.n for row in data.rows if row.difference)
        assert smallest < FEWEST and found.outcome == "undecided"
    if "What main retrieves does not help" in line:
        assert found.outcome == "loss" and not rivals and data.kind == "generation"


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(results())
def test_the_remark_on_few_rows_names_the_rows_it_speaks_of(data: ReportData) -> None:
    remark = verdict(data).too_few
    differences = [row.difference for row in data.rows if row.difference]
    undecided = [d for d in differences if tells(data, d) == "undecided" and math.isfinite(d.smallest)]
    if not remark:
        factor = 1 if data.primary.decimals <= 1 else 100
        assert (
            all(d.smallest * factor <= COARSE for d in undecided if d.n >= FEWEST)
            or max(undecided, key=lambda d: d.smallest).n >= FEWEST
        )
        return
    rows = int(re.search(r"([\d,]+) rows?", remark)[1].replace(",", ""))  # type: ignore[index]
    named = re.search(r"difference of (\S+) is", remark)
    shown = None if named is None else named[1]
    assert any(d.n == rows and (shown is None or data.primary.show(d.smallest) == shown) for d in undecided)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(results(), st.booleans())
def test_few_seeds_are_told_where_they_carry_a_claim(data: ReportData, trained: bool) -> None:
    data = dataclasses.replace(data, curves=(TrainingCurve("main", 0, (), ()),) if trained else ())
    conclusion, own = verdict(data), data.main_row.score(data.metric)
    assert own is not None
    claims = conclusion.outcome in ("gain", "loss") and (trained or own.seeds > 1)
    assert bool(conclusion.few_seeds) == (claims and own.seeds < 5)
    if conclusion.few_seeds:
        assert f" {own.seeds} seed" in conclusion.few_seeds and "of main" in conclusion.few_seeds
        assert conclusion.few_seeds in render_markdown(data)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(results())
def test_tables_have_n_and_results_are_json(data: ReportData) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    values = Comparison(data, {}, 1.0)
    from coldframe.config import without_nan

    json.loads(json.dumps(without_nan(values.to_dict()), allow_nan=False), parse_constant=refuse)
    head = next(line for line in render_markdown(data).splitlines() if line.startswith("| method"))
    assert "| n |" in head


def test_the_results_file_is_json(tmp_path: object) -> None:
    from pathlib import Path

    nan = math.nan
    rows = (
        MethodRow("main", "method", (Score("accuracy", Interval(50.0, 40.0, 60.0, n=50)),)),
        MethodRow(
            "icl",
            "method",
            (Score("accuracy", Interval(nan, nan, nan, n=50)),),
            Difference(nan, nan, nan, n=50, p_value=nan, smallest=nan),
        ),
    )
    data = ReportData("task", "model", "main", "accuracy", INFOS[:1], rows)
    Comparison(data, {}, 1.0).save(Path(str(tmp_path)))
    text = (Path(str(tmp_path)) / "results.json").read_text()
    assert "NaN" not in text and json.loads(text)["rows"][1]["difference"]["value"] is None

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    values = json.loads((Path(str(tmp_path)) / "report.json").read_text(), parse_constant=refuse)
    assert values["rows"][1]["difference"]["value"] is None and values["rows"][0]["difference"] is None
    again = ReportData.from_dict(values, results=True)
    assert repr(again) == repr(data), "null is NaN again where a number must be, and None elsewhere"


def test_a_method_that_lost_is_not_the_model_that_lost() -> None:
    def row(name: str, role: str, value: float, gap: float | None = None, n: int = 779) -> MethodRow:
        interval = Interval(value, value - 3, value + 3, n=n)
        difference = None if gap is None else Difference(gap, gap - 2, gap + 2, n=n, p_value=0.01, smallest=2.0)
        return MethodRow(name, role, (Score("accuracy", interval),), difference)  # type: ignore[arg-type]

    rows = (row("main", "method", 70.0), row("1-NN vote", "no-lm", 80.0, -10.0), row("icl", "method", 100.0, -30, 60))
    line = verdict(ReportData("task", "model", "main", "accuracy", INFOS[:1], rows)).headline
    assert line.startswith("main does not earn its place here") and "icl (100.0, n = 60)" in line
    assert "The language model does not earn" not in line
