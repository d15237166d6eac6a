"""What other training seeds would change, and what an interval says of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coldframe.inference.intervals import interval, score_interval
from coldframe.inference.seeds import SeedSpread, t_quantile, widened

from ..evaluation.support import make_predictions


def test_the_quantile_is_that_of_students_t() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 1.2, 1.5, 1.8, 2, 2.5, 3, 3.7, 4, 5, 6.5, 7, 9, 12, 20, 45, 100, 1e6):
        assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.01), freedom


def test_the_variance_of_seeds_leaves_out_what_rows_tell() -> None:
    """Crossed noise: rows 3, trainings 2, both together 5; 40 seeds, so that the estimate is near."""
    rng = np.random.default_rng(0)
    n, seeds = 400, 40
    values = 3 * rng.normal(size=(1, n)) + 2 * rng.normal(size=(seeds, 1)) + 5 * rng.normal(size=(seeds, n))
    weights = rng.multinomial(n, np.full(n, 1 / n), size=2000) / n
    spread = SeedSpread.of([*values.mean(axis=1)], weights @ values.T)
    assert spread.freedom == seeds - 1
    assert spread.variance * seeds == pytest.approx(2**2, rel=0.5)
    same = values[:1] + 5 * rng.normal(size=(seeds, n))  # trainings that are equally good, each on rows of its own
    assert SeedSpread.of([*same.mean(axis=1)], weights @ same.T).variance * seeds < 0.1


def test_one_run_and_undefined_scores_tell_nothing_of_seeds() -> None:
    assert SeedSpread.of([80.0], np.full((100, 1), 80.0)) == SeedSpread()
    assert SeedSpread.of([80.0, math.nan], np.ones((100, 2))).variance == 0
    assert SeedSpread.of([70.0, 80.0], np.full((100, 2), math.nan)).variance == 0
    assert widened(2.0, 1.0, 4.0, [SeedSpread(), SeedSpread()]) == (1.0, 4.0)


def test_half_widths_add_up_by_their_squares_on_each_side() -> None:
    low, high = widened(10.0, 9.0, 13.0, [SeedSpread(4.0, 2)])
    margin = t_quantile(2) * 2
    assert (10 - low, high - 10) == pytest.approx((math.hypot(1, margin), math.hypot(3, margin)))
    both = widened(0.0, 0.0, 0.0, [SeedSpread(1.0, 2), SeedSpread(1.0, 2)])
    assert both[1] == pytest.approx(t_quantile(4) * math.sqrt(2)), "Welch: two equal spreads have twice the freedom"


def test_three_seeds_far_apart_make_an_interval_that_says_so() -> None:
    """70, 80 and 90 percent: the mean of three trainings is known to about 25 points, not to the rows' 3."""
    targets = np.arange(1000) % 2

    def run(right: int, seed: int):  # type: ignore[no-untyped-def]
        hits = np.arange(1000) < right
        return make_predictions(targets, np.eye(2)[np.where(hits, targets, 1 - targets)], seed=seed)

    far = score_interval([run(700, 0), run(800, 1), run(900, 2)], "accuracy", resamples=400)
    assert far.value == pytest.approx(80) and far.value - far.low == pytest.approx(4.3 * 10 / math.sqrt(3), rel=0.1)
    assert far.high == 100, "no accuracy lies above"
    near = score_interval([run(800, 0)] * 3, "accuracy", resamples=400)
    assert near.high - near.low < 6


def test_zero_is_excluded_as_often_as_it_says() -> None:
    """200 means of three seeds that spread by more than rows do: the truth is outside in 5%."""
    rng = np.random.default_rng(3)
    missed = 0
    for trial in range(200):
        values = rng.normal(size=(1, 60)) + rng.normal(scale=1.0, size=(3, 1)) + rng.normal(size=(3, 60))
        scores = [lambda weights, row=row: weights @ row / weights.sum(axis=1) for row in values]
        span = interval(scores, 60, resamples=200, seed=trial)
        missed += not span.low <= 0 <= span.high
    assert 1 <= missed <= 20
