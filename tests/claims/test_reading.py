"""Where ours is read from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.evaluation.support import noisy_run

from coldframe.claims.entry import Entry
from coldframe.claims.reading import number_at, of_comparison, of_results, shared_rows
from coldframe.errors import DataError
from coldframe.evaluation.compare import paired_difference
from coldframe.evaluation.comparison import Comparison
from coldframe.evaluation.cost import Cost
from coldframe.evaluation.report_data import MethodRow, ReportData, Score, Tuning
from coldframe.evaluation.tune import Search
from coldframe.inference.intervals import score_interval
from coldframe.reports.numbers import MetricInfo

RNG = np.random.default_rng(0)
RUNS = {
    "good": [noisy_run(RNG, accuracy=0.9, method="good", seed=seed) for seed in (0, 1)],
    "bad": [noisy_run(RNG, accuracy=0.6, method="bad")],
}


def comparison() -> Comparison:
    rows = tuple(
        MethodRow(
            name,
            "method",
            (Score("accuracy", score_interval(runs, "accuracy")),),
            cost=Cost(trainable_parameters=size, prefill_flops=flops),
            order_std=0.0 if name == "good" else None,
        )
        for (name, runs), size, flops in zip(RUNS.items(), (40, 10), (6e9, 2e9), strict=True)
    )
    data = ReportData("made-up", "tiny", "good", "accuracy", (MetricInfo("accuracy", "Accuracy"),), rows)
    trials = ({"number": 0, "seconds": 2.5}, {"number": 1, "seconds": None})
    searches = {"good": Search("good", {}, Tuning(2), trials)}
    return Comparison(data, RUNS, 9.0, searches, {"good": 30.0, "bad": 4.0})


def entry(**row: Any) -> Entry:
    base = {"claim": "c", "source": "s", "model": "m", "published": 1.0, "of": ["good", "bad"]}
    return Entry.from_dict(
        {"paper": "p", "title": "t", "claim": "c", "run": {"methods": []}, "rows": [{**base, **row}]}
    )


def test_two_rows_are_a_paired_difference_and_say_what_they_cost() -> None:
    (measured,) = of_comparison(entry(), comparison())
    expected = paired_difference(RUNS["good"], RUNS["bad"], "accuracy")
    assert measured.ours is not None and measured.ours.low == expected.low
    assert (measured.ours.n, measured.ours.seeds) == (100, 1)
    assert (measured.seconds, measured.trials) == (36.5, 2), "fits and trials of both"


def test_one_row_is_its_score_and_another_metric_may_be_named() -> None:
    (measured,) = of_comparison(entry(of=["good"], metric="log_loss"), comparison())
    assert measured.ours is not None and measured.ours.value == score_interval(RUNS["good"], "log_loss").value
    assert (measured.ours.seeds, measured.seconds) == (2, 32.5)


def test_costs_are_counted() -> None:
    for row, value in (
        ({"metric": "trainable_parameters"}, 30.0),
        ({"metric": "flops", "compare": "ratio", "tolerance": 2}, 3.0),
        ({"metric": "order_std", "of": ["good"]}, 0.0),
        ({"metric": "seconds", "of": ["bad"]}, 4.0),
    ):
        (measured,) = of_comparison(entry(**row), comparison())
        assert measured.ours is not None and (measured.ours.value, measured.ours.n) == (value, None)
    (missing,) = of_comparison(entry(metric="latency_ms"), comparison())
    assert missing.ours is None and "latency_ms of good was not measured" in missing.remark


def test_what_is_not_there_names_the_nearest() -> None:
    with pytest.raises(DataError, match="Did you mean 'good'"):
        of_comparison(entry(of=["goad"]), comparison())
    with pytest.raises(DataError, match="ratios are of costs"):
        of_comparison(entry(compare="ratio", tolerance=2), comparison())


def test_rows_that_both_answered() -> None:
    sample = [RUNS["bad"][0].at([7, 3, 50])]
    first, second = shared_rows([RUNS["good"], sample])
    assert {*first[0].ids} == {*second[0].ids} == {"q3", "q7", "q50"}
    assert [run.seed for run in first] == [0, 1]


def test_numbers_in_the_results_of_a_script() -> None:
    results = {
        "scores": [{"system": "a", "k": 1, "f1": {"value": 1, "low": None, "high": 2, "n": 40, "seeds": 5}}],
        "pull": [0.2, 0.1, 0.3],
        "counted": 4,
    }
    score = number_at(results, "scores/system=a&k=1/f1")
    assert (score.value, score.n, score.seeds) == (1.0, 40, 5) and math.isnan(score.low)
    assert (number_at(results, "pull").low, number_at(results, "counted").high) == (0.1, 4.0)
    for path, words in (
        ("scores/system=b", "No element of scores has system=b"),
        ("count", "Did you mean 'counted'"),
        ("counted/x", "There is no 'x' in counted"),
        ("scores", "There is no number at scores"),
    ):
        with pytest.raises(DataError, match=words):
            number_at(results, path)


def test_a_place_that_is_not_there_is_said_in_its_row() -> None:
    rows = [{"claim": "c", "source": "s", "model": "m", "path": path} for path in ("a", "b")]
    claim = Entry.from_dict({"paper": "p", "title": "t", "claim": "c", "script": {"name": "gap"}, "rows": rows})
    there, missing = of_results(claim, {"a": 3}, 12.34)
    assert there.ours is not None and there.ours.value == 3.0 and there.seconds == 12.3
    assert missing.ours is None and "There is no 'b'" in missing.remark
