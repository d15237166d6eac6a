from __future__ import annotations

import dataclasses

import pytest

from coldframe.errors import ConfigError
from coldframe.evaluation.compare import Difference
from coldframe.evaluation.report_data import MethodRow, ReportData, Score
from coldframe.evaluation.verdict import verdict
from coldframe.inference.intervals import Interval
from coldframe.reports.numbers import MetricInfo

EFF = MetricInfo("effective_accuracy", "effective accuracy")


def row(name, role, value, difference=None, n=779):
    scores = (Score("effective_accuracy", Interval(value, value - 3, value + 3, n=n, seeds=3)),)
    if difference is not None:
        d, low, high, smallest = difference
        difference = Difference(d, low, high, n=n, p_value=0.01, smallest=smallest)
    return MethodRow(name, role, scores, difference)


def report(*others, main=80.0, n=779, **changes):
    rows = (row("MHA-ESP", "method", main, n=n), *others)
    data = ReportData("b3db", "smollm2", "MHA-ESP", "effective_accuracy", (EFF,), rows)
    return dataclasses.replace(data, **changes)


def test_a_clear_win():
    found = verdict(
        report(
            row("Prompt Tuning", "method", 68.0, (12.0, 8.0, 16.0, 5.0)),
            row("1-NN vote", "no-lm", 72.0, (8.0, 5.0, 11.0, 4.0)),
            row("random forest", "no-lm", 74.0, (6.0, 2.0, 10.0, 4.5)),
        )
    )
    assert found.outcome == "gain" and found.too_few == ""
    assert found.headline == (
        "MHA-ESP reaches effective accuracy 80.0 [77.0, 83.0] on b3db (n = 779, 3 seeds): +6.0 [+2.0, +10.0] "
        "against random forest (74.0), the best control without a language model."
    )
    assert [one.name for one in found.comparisons] == ["random forest", "1-NN vote", "Prompt Tuning"]
    assert found.comparisons[2].text == "Better than Prompt Tuning: +12.0 [+8.0, +16.0]."


def test_a_loss_to_a_control_is_said_first():
    found = verdict(report(row("1-NN vote", "no-lm", 85.0, (-5.0, -8.0, -2.0, 4.0)), main=80.0))
    assert found.outcome == "loss"
    assert found.headline.startswith("The language model does not earn its place here: 1-NN vote (85.0) beats MHA-ESP")
    assert "\N{MINUS SIGN}5.0 [\N{MINUS SIGN}8.0, \N{MINUS SIGN}2.0]" in found.headline


def test_an_open_question_is_no_win_however_large():
    found = verdict(report(row("1-NN vote", "no-lm", 72.0, (8.0, -1.0, 17.0, 12.8)), n=100))
    assert found.outcome == "undecided"
    assert found.headline.startswith(
        "MHA-ESP does not beat the best control without a language model, 1-NN vote (72.0)"
    )
    assert "cannot tell these apart" in found.headline


def test_too_few_rows():
    few = verdict(report(row("1-NN vote", "no-lm", 78.0, (2.0, -7.0, 11.0, 13.1), n=100), n=100))
    assert few.too_few.startswith("The test is small: with 100 rows a true difference of 13.1")
    # Enough rows, and an honest tie: no such excuse.
    many = verdict(report(row("1-NN vote", "no-lm", 79.8, (0.2, -0.9, 1.3, 1.6))))
    assert many.outcome == "undecided" and many.too_few == ""
    # A small test that found what it looked for needs no excuse either.
    clear = verdict(report(row("1-NN vote", "no-lm", 50.0, (30.0, 18.0, 42.0, 17.0), n=100), n=100))
    assert clear.too_few == ""
    sampled = row("icl", "method", 80.0, (-1.0, -12.0, 10.0, 17.0), n=60)
    # Of 779 test rows one method answered 60: it is that method's sample that is small, not the test.
    assert verdict(report(sampled)).too_few.startswith(
        "icl answered only a sample: with 60 rows a true difference of 17.0"
    )


def test_the_best_control_counts_not_the_first():
    found = verdict(
        report(
            row("5-NN vote", "no-lm", 60.0, (20.0, 15.0, 25.0, 4.0)),
            row("1-NN vote", "no-lm", 79.0, (1.0, -2.0, 4.0, 4.0)),
        )
    )
    assert found.outcome == "undecided" and "1-NN vote" in found.headline


def test_without_controls_nothing_is_claimed():
    found = verdict(report(row("zero-shot", "method", 50.0, (30.0, 25.0, 35.0, 4.0))))
    assert found.outcome is None and "open whether the model earned its place" in found.headline
    assert verdict(report()).comparisons == ()


def test_a_metric_where_less_is_better():
    info = MetricInfo("effective_accuracy", "calibration error", higher=False, decimals=3)
    better = report(row("1-NN vote", "no-lm", 0.3, (-0.2, -0.25, -0.15, 0.05)), main=0.1, metrics=(info,))
    assert verdict(better).outcome == "gain"
    worse = report(row("1-NN vote", "no-lm", 0.05, (0.05, 0.01, 0.09, 0.05)), main=0.1, metrics=(info,))
    assert verdict(worse).outcome == "loss"
    assert [r.name for r in worse.ranked()] == ["1-NN vote", "MHA-ESP"]
    coarse = report(row("1-NN vote", "no-lm", 0.05, (0.05, -0.01, 0.11, 0.09)), main=0.1, metrics=(info,))
    assert "difference of 0.090" in verdict(coarse).too_few


def test_undefined_scores_rank_last_and_print_as_a_dash():
    nan = float("nan")
    data = report(row("1-NN vote", "no-lm", nan, (nan, nan, nan, nan)))
    assert [r.name for r in data.ranked()] == ["MHA-ESP", "1-NN vote"]
    assert EFF.show(nan) == "–" and EFF.show(-0.04) == "0.0" and EFF.show(0.04, sign=True) == "0.0"


def test_report_data_is_checked_and_round_trips():
    data = report(row("1-NN vote", "no-lm", 72.0, (8.0, 5.0, 11.0, 4.0)), settings={"k": 5})
    assert ReportData.from_dict(data.to_dict()) == data
    with pytest.raises(ConfigError, match="MHA-ESP"):
        dataclasses.replace(data, main="MHA-ESQ")
    with pytest.raises(ConfigError, match="same name"):
        dataclasses.replace(data, rows=(*data.rows, data.rows[0]))
    with pytest.raises(ConfigError, match="not shown"):
        dataclasses.replace(data, metric="accuracy")
