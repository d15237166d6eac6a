from __future__ import annotations

import numpy as np
import pytest

from coldframe.evaluation.calibration import calibration_error, reliability
from coldframe.tasks.metrics import METRICS

from .support import make_predictions


def test_bins_hold_what_falls_into_them():
    probabilities = [[0.95, 0.05], [0.92, 0.08], [0.45, 0.55], [1.0, 0.0]]
    bins = reliability([make_predictions([0, 1, 1, 0], probabilities)], bins=10)
    assert [(one.count, one.accuracy) for one in bins] == [(1, 1.0), (3, pytest.approx(2 / 3))]
    assert bins[1].confidence == pytest.approx((0.95 + 0.92 + 1.0) / 3)


@pytest.mark.slow
def test_an_honest_forecast_has_no_error_and_a_boaster_has():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 20_000)
    targets = (rng.random(20_000) > p).astype(int)
    honest = make_predictions(targets, np.stack([p, 1 - p], axis=1))
    boaster = make_predictions(targets, np.tile([0.99, 0.01], (20_000, 1)))
    assert calibration_error(reliability([honest])) < 0.015
    for run in (honest, boaster):
        metric = METRICS["calibration_error"].score(run.targets, run.probabilities)
        assert 100 * calibration_error(reliability([run])) == pytest.approx(metric)
    assert calibration_error(reliability([boaster])) == pytest.approx(0.99 - 0.75, abs=0.01)


def test_seeds_are_pooled():
    run = make_predictions([0, 1], [[0.9, 0.1], [0.2, 0.8]])
    assert sum(one.count for one in reliability([run, run])) == 4
