from __future__ import annotations

import numpy as np
import pytest
from reproduction.seed_calibration import Equal, Rate, _used, answers, full_plan, measure, render_markdown

from coldframe.evaluation.compare import paired_difference
from coldframe.inference.intervals import bootstrap, statistic

from ..evaluation.support import make_predictions


def test_methods_are_equal_and_seeds_spread_as_planted() -> None:
    rng = np.random.default_rng(0)
    equal = Equal(n=400, seeds=5, spread=4.0)
    right = answers(equal, 4.0, rng.standard_normal((300, 400)), rng)
    assert right.shape == (300, 5, 400) and right.mean() == pytest.approx(80, abs=0.5)
    of_training = right.mean(axis=2).std(axis=1, ddof=1)
    assert np.sqrt((of_training**2).mean()) == pytest.approx(4.2, abs=0.5)  # and a little from the rows


def test_the_interval_is_the_one_that_comparisons_use() -> None:
    rng = np.random.default_rng(1)
    equal = Equal(n=120, seeds=3, spread=3.0)
    shared = rng.standard_normal((1, 120))
    pair = [answers(equal, 3.0, shared, rng)[0] for _ in range(2)]
    targets = np.arange(120) % 2
    runs = [
        [
            make_predictions(targets, np.eye(2)[np.where(row > 0, targets, 1 - targets)], seed=s)
            for s, row in enumerate(m)
        ]
        for m in pair
    ]
    scores = [bootstrap([statistic([run], "accuracy") for run in m], 120, resamples=500) for m in runs]
    difference = paired_difference(runs[0], runs[1], "accuracy", resamples=500)
    assert _used(pair, scores) == pytest.approx((difference.low, difference.high))


@pytest.mark.slow
def test_seeds_that_spread_make_no_findings() -> None:
    """As the table of the results page, with fewer trials: 5% and what chance adds."""
    rate = measure(Equal(seeds=3, spread=4.0), 300, resamples=300)
    assert rate.interval <= 24 < rate.resampled
    assert rate.resampled_width < rate.interval_width


def test_the_plan_has_the_cases_of_the_page() -> None:
    plan = full_plan()
    assert {(e.seeds, e.spread) for e in plan if e.n == 500} >= {(s, x) for s in (3, 5) for x in (0.0, 1.0, 2.0, 4.0)}
    assert len(set(plan)) == len(plan)
    table = render_markdown([Rate(plan[0], 2000, 80, 5.0, 200, 4.0)])
    assert "| 500 | 3 | 0 | 0 | 4.0% [3.2, 5.0] | 5.0 | 10.0% [8.8, 11.4] | 4.0 |" in table
