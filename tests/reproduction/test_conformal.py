from __future__ import annotations

import random
from pathlib import Path

import pytest
import reproduction.conformal as conformal
from reproduction.conformal import Trial, tables_of, trials

from coldframe.inference.intervals import Interval
from coldframe.pipeline.conformal import Coverage
from coldframe.reports import markdown


def test_a_method_is_measured_by_new_rows_by_class_and_by_rows_that_it_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are noise, which the method knows by heart: its own rows promise too much."""
    monkeypatch.setitem(conformal.METHODS, "logistic-regression", {"features": "tfidf", "c": 1e4})
    rng = random.Random(0)
    lines = [f"{rng.choice('abcdef')} {number},{rng.choice(['No', 'Yes'])}" for number in range(400)]
    (tmp_path / "noise.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    measured = list(trials(str(tmp_path / "noise.csv"), "stratified", "logistic-regression", seed=0))
    assert [(trial.limits, trial.coverage) for trial in measured] == [
        (limits, coverage) for limits in ("all rows", "by class", "learned rows") for coverage in conformal.COVERAGES
    ]
    at_90 = {trial.limits: trial.result.right.value for trial in measured if trial.coverage == 0.9}
    assert min(at_90["all rows"], at_90["by class"]) > 0.8 and at_90["learned rows"] < 0.7


def test_tables_have_means_over_seeds() -> None:
    def trial(seed: int, coverage: float, right: float) -> Trial:
        interval = Interval(right, right, right, n=10)
        sets = Coverage(interval, {"a": interval, "b": Interval(0.5, 0.4, 0.6, n=4)}, 1.25, 0.8, interval, 0.0)
        return Trial("t", "random", "knn", "all rows", coverage, seed, 90, sets)

    rights, looks = tables_of([trial(0, 0.8, 0.7), trial(1, 0.8, 0.9), trial(0, 0.9, 0.92), trial(1, 0.9, 0.94)])
    text = markdown.render([rights, looks])
    assert "| t | random | knn | all rows | 80.0 [" in text and "| 93.0 [80.3, 105.7] | – |" in text
    assert "| 92.0, 94.0 | b 50.0 | 1.25 | 80.0 | 93.0 | 0.0 |" in text
